"""Make the tests independent of the shell, service or user that starts them."""

import os
import signal
import site

# SEF_ and AWS_ configure SEF, FLASK_ and WERKZEUG_ its libraries. PYTHONDONTWRITEBYTECODE, for
# example, makes each of hundreds of child processes compile all of SEF, and PYTHONWARNINGS writes
# to a standard error that a test compares.
PREFIXES = ("SEF_", "AWS_", "FLASK_", "WERKZEUG_", "GRANIAN_", "MOTO_", "PYTHON")
# The locations of Python and its packages.
KEPT = {"PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX"}
# A proxy would get requests for 127.0.0.1, bash runs BASH_ENV, and COLUMNS wraps the help text.
NAMES = {"BASH_ENV", "COLUMNS", "LINES", "LANGUAGE"} | {
    name
    for scheme in ("all", "ftp", "http", "https", "no")
    for name in (f"{scheme}_proxy", f"{scheme}_proxy".upper())
}


def neutralize() -> None:
    """Reset inherited signals, environment variables and umask, for this process and its children.

    HOME is a folder that does not exist: no test may depend on a file in it, such as
    ~/.aws/config or ~/.netrc.
    """
    _reset_signals()
    for name in list(os.environ):
        if name in NAMES or (name.startswith(PREFIXES) and name not in KEPT):
            del os.environ[name]
    os.environ |= {
        "PYTHONUSERBASE": site.getuserbase(),  # its default depends on HOME
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "AWS_EC2_METADATA_DISABLED": "true",  # without credentials, boto3 calls 169.254.169.254
    }
    os.umask(0o022)


def _reset_signals() -> None:
    """Stop children from inheriting ignored and blocked signals.

    A shell starts a background job with SIGINT ignored, nohup ignores SIGHUP, and a program
    inherits that through exec: a backend started by a test would never receive Ctrl-C. A handler is
    not inherited through exec, so with an empty handler this process still ignores the signal, and
    its children do not.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, exit codes of children are lost
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
