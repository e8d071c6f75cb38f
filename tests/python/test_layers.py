"""tools/check_layers.py on small trees: each rule broken once is reported, and ours is clean."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_spec = importlib.util.spec_from_file_location("check_layers", ROOT / "tools" / "check_layers.py")
assert _spec is not None and _spec.loader is not None
check_layers = importlib.util.module_from_spec(_spec)
sys.modules["check_layers"] = check_layers
_spec.loader.exec_module(check_layers)

ALLOWED = {
    "cpp/base/error.h": "#pragma once\n#include <string>\n",
    "cpp/base/thread_pool.cpp": "#include <thread>\nstd::thread t;\n",
    "cpp/io/json.cpp": '#include <nlohmann/json.hpp>\n#include "base/error.h"\n',
    "cpp/io/mapped_file.cpp": "#include <sys/mman.h>\n#include <fcntl.h>\n",
    "cpp/quant/pack.cpp": '#include "kernels/kernel_table.h"\n// std::thread is only named here\n',
    "cpp/convert/job.cpp": '#include "plan/plan.h"\n#include "model/model.h"\n',
    "cpp/bind/module.cpp": '#include <pybind11/pybind11.h>\n#include "convert/job.h"\n',
    "kernels/x86_avx2/table.cpp": '#include <immintrin.h>\n#include "kernels/kernel_table.h"\n',
    "python/jang_tools/convert.py": "from jang_tools import _core\nimport numpy\n",
    "python/jang_tools/cli/main.py": "from jang_tools import convert\nfrom . import ui\n",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_allowed_tree_is_clean(tmp_path: Path) -> None:
    write(tmp_path, ALLOWED)
    assert check_layers.violations(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("cpp/io/a.cpp", '#include "quant/pack.h"\n', "io may not include quant"),
        ("cpp/quant/a.h", '#include "arch/spec.h"\n', "quant may not include arch"),
        ("cpp/plan/a.cpp", '#include "model/model.h"\n', "plan may not include model"),
        ("cpp/base/a.cpp", '#include "kernels/kernel_table.h"\n', "base may not include kernels"),
        ("cpp/base/a.cpp", '#include "error.h"\n', "not of the form"),
        ("cpp/misc/a.cpp", "\n", "no place among the layers"),
        ("kernels/generic/a.inl", '#include "base/error.h"\n', "kernels may not include base"),
        ("kernels/generic/a.inl", "#include <vector>\n", "kernels may not use"),
        ("kernels/dispatch.cpp", "void f() { throw 1; }\n", "kernels may not use throw"),
        ("cpp/plan/a.cpp", "#include <nlohmann/json.hpp>\n", "nlohmann/json: only in io"),
        ("cpp/io/a.h", "#include <nlohmann/json.hpp>\n", "nlohmann/json: only in io .cpp"),
        ("cpp/model/a.cpp", "#include <pybind11/pybind11.h>\n", "pybind11"),
        ("cpp/model/a.cpp", "std::jthread worker;\n", "threads: only in base"),
        ("cpp/model/a.cpp", "#include <sys/mman.h>\n", "mmap and file descriptors"),
        ("cpp/quant/a.cpp", "#include <immintrin.h>\n", "intrinsics"),
        ("cpp/quant/a.cpp", "float x[4] __attribute__((vector_size(16)));\n", "intrinsics"),
        (
            "python/jang_tools/a.py",
            "from jang_tools.cli import main\n",
            "may not import jang_tools.cli",
        ),
        ("python/jang_tools/a.py", "from .cli import main\n", "may not import jang_tools.cli"),
        ("python/jang_tools/a.py", "def f():\n    import torch\n", "may not import torch"),
        ("python/jang_tools/cli/a.py", "import pickle\n", "may not import pickle"),
        ("tools/long.py", "x = 1\n" * 801, "801 lines"),
    ],
)
def test_violation_is_reported(tmp_path: Path, name: str, text: str, expected: str) -> None:
    write(tmp_path, ALLOWED | {name: text})
    found = check_layers.violations(tmp_path)
    assert len(found) == 1
    assert found[0].startswith(f"{name}:")
    assert expected in found[0]


def test_this_repository_is_clean() -> None:
    assert check_layers.violations(ROOT) == []
