"""SEF's Flask application and command line, as a checkout runs them; `sef/main.py` builds both.

`python backend.py` serves with the embedded defaults; `--help` lists the commands.
"""

from sef.main import create_app, create_worker_app, main, run, serve

__all__ = ["create_app", "create_worker_app", "main", "run", "serve"]

if __name__ == "__main__":
    run()
