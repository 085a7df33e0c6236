"""Make the tests independent of the shell, service or user that starts them."""

import os
import signal
import site

# SEF_ and AWS_ configure SEF, FLASK_ and WERKZEUG_ its libraries. Of PYTHON's, for example,
# PYTHONDONTWRITEBYTECODE makes each of hundreds of children compile all of SEF, and PYTHONWARNINGS
# writes to a standard error that a test compares.
PREFIXES = ("SEF_", "AWS_", "FLASK_", "WERKZEUG_", "GRANIAN_", "MOTO_", "PYTHON")
# These say where Python and its packages are.
KEPT = {"PYTHONHOME", "PYTHONPATH", "PYTHONUSERBASE", "PYTHONNOUSERSITE", "PYTHONPYCACHEPREFIX"}
# Proxies would be asked for 127.0.0.1, bash runs BASH_ENV, and COLUMNS breaks lines of help.
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
        "PYTHONUSERBASE": site.getuserbase(),  # it is found by HOME
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "AWS_EC2_METADATA_DISABLED": "true",  # without credentials, boto3 asks 169.254.169.254
    }
    os.umask(0o022)


def _reset_signals() -> None:
    """Stop children from inheriting ignored and blocked signals.

    A shell starts a background job with SIGINT ignored, nohup ignores SIGHUP, and a program keeps
    that through exec: a backend started by a test would never see Ctrl-C. A handler is not kept
    through exec, so the empty one lets this process go on ignoring the signal.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it loses the exit codes of children
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
