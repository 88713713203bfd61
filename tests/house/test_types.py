"""What type checkers make of a user's script: right calls pass, wrong ones are refused, each on its line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from extras import needs

import fnconv

SCRIPT = Path(__file__).parents[1] / "support" / "typed_script.py"
LINES = SCRIPT.read_text().splitlines()
WRONG = {number for number, line in enumerate(LINES, 1) if re.search(r"  # wrong\b", line)}


ROOT = str(Path(fnconv.__file__).parents[1])


def run(folder, *command):
    """The checker as a user runs it: outside the checkout, with the package on the path of imports, where it is a
    library. In the checkout mypy takes it for the user's own code and judges that too."""
    paths = os.environ | {"PYTHONPATH": ROOT}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=paths, capture_output=True, text=True, check=False
    )


def mypy(folder):
    """Its strict mode, without the settings of this project."""
    settings = folder / "mypy.ini"
    settings.write_text(f"[mypy]\nstrict = True\ncache_dir = {folder}\n")
    done = run(folder, "mypy", "--config-file", str(settings), str(SCRIPT))
    assert done.returncode == 1, done.stdout + done.stderr
    return re.findall(r"^(\S+?):(\d+): error: (.*)", done.stdout, re.M)


def basedpyright(folder):
    """Pyright's strict mode."""
    settings = folder / "pyrightconfig.json"
    settings.write_text(json.dumps({"typeCheckingMode": "strict", "include": [str(SCRIPT)], "extraPaths": [ROOT]}))
    done = run(folder, "basedpyright", "--project", str(settings), "--pythonpath", sys.executable, "--outputjson")
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [(d["file"], d["range"]["start"]["line"] + 1, d["message"]) for d in found]


@pytest.mark.sample(1)
@pytest.mark.parametrize("checker", [mypy, basedpyright])
def test_checkers_refuse_the_wrong_calls_and_no_others(checker, tmp_path):
    needs("dev", checker.__name__)
    found = checker(tmp_path)
    assert {Path(file).name for file, _, _ in found} == {SCRIPT.name}
    assert {int(line) for _, line, _ in found} == WRONG, found


def test_the_script_s_right_calls_are_right():
    """It runs, wrong calls left out: what a checker believes is so."""
    right = [line for number, line in enumerate(LINES, 1) if number not in WRONG]
    exec(compile("\n".join(right), str(SCRIPT), "exec"), {"__name__": "typed_script"})


def test_modules_exist_once_the_package_is_imported():
    program = "import fnconv; print(*(m.__name__ for m in (fnconv.show, fnconv.testing, fnconv.train, fnconv.compat)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["fnconv.show", "fnconv.testing", "fnconv.train", "fnconv.compat"]
