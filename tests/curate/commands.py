"""The command `curate` in this process, which saves the second that a new one takes to start."""

import contextlib
import io
import pathlib
import subprocess

from curate.cli import main


def curate(*arguments: str, cwd: pathlib.Path) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as ended:
            return subprocess.CompletedProcess(arguments, int(ended.code or 0), out.getvalue(), err.getvalue())
    raise AssertionError("a command ends with its exit code")
