"""Compare device names of volumes, and tell the names that EC2 lists.

The list for HVM images, the only ones that present instance types take:
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/device_naming.html. It has `/dev/sd[a-z]`,
`/dev/xvd[e-z]` and `/dev/xvd[a-d][a-x]`. EC2 also takes `/dev/xvdb` to `/dev/xvdd` and, from an
earlier form of the list, `/dev/xvd[bc][yz]`. A name such as `/dev/sdk1` is refused: "not a valid
EBS device name" (https://github.com/base2genomics/batchit/issues/15).
"""

import re

_LISTED = re.compile(r"/dev/(?:sd[a-z]|xvd[a-z]|xvd[a-d][a-x]|xvd[bc][yz])")


def is_listed(device: str) -> bool:
    """Return True if EC2 lists the name for volumes of HVM instances."""
    return _LISTED.fullmatch(device) is not None


def same_device(device: str) -> str:
    """Return one name for all names of a device.

    `/dev/sdf` and `/dev/xvdf` are one device: an attachment at the second name does not end
    (https://github.com/joeduffy/blocker/pull/1). `/dev/sda1` and `/dev/xvda` are both names of the
    root device.
    """
    name = device.removeprefix("/dev/")
    name = re.sub(r"^xvd", "sd", name)
    return "sda" if name == "sda1" else name
