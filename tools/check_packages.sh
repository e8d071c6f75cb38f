#!/bin/bash
# Builds sdist and wheel, installs each in a fresh environment, and uses what was installed. `make packages` runs it: the
# wheel comes from the build that `make` keeps, the sdist is compiled as a user would.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1

fresh() {
  "$python" -m venv "$work/$1"
}

use() { # use ENVIRONMENT: away from the source tree, so that only what was installed is found
  (
    cd "$work"
    "$work/$1/bin/jang" --version
    "$work/$1/bin/jang" --help >/dev/null
    "$work/$1/bin/jang" convert --model "$root/examples/tiny-prose-llama" --profile JANG_4L \
      --output "$work/converted-$1" --quiet
    "$work/$1/bin/jang" verify "$work/converted-$1" >/dev/null
    "$work/$1/bin/jang" run --model "$work/converted-$1" --prompt "Once upon a time" --max-tokens 16
    "$work/$1/bin/python" -c 'import jang_tools, pathlib; assert "site-packages" in jang_tools.__file__'
  )
}

expect() { # expect LISTING PATTERN: some line matches; refuse LISTING PATTERN: none does
  grep -qE "$2" "$1" || { echo "error: $(basename "$1"): nothing matches $2" >&2; exit 1; }
}
refuse() {
  if grep -E "$2" "$1"; then echo "error: $(basename "$1"): must not contain $2" >&2; exit 1; fi
}

echo "==> sdist"
mkdir "$work/dist"
python - "$work/dist" <<'BUILD' >"$work/sdist.log" 2>&1 || { cat "$work/sdist.log"; exit 1; }
import sys

from scikit_build_core.build import build_sdist

build_sdist(sys.argv[1])
BUILD
tar tzf "$work"/dist/*.tar.gz | sed 's,^[^/]*/,,' | sort >"$work/sdist.txt"
for wanted in '^PKG-INFO$' '^LICENSE$' '^NOTICE$' '^README.md$' '^CMakeLists.txt$' '^pyproject.toml$' '^cmake/Dependencies' \
  '^kernels/dispatch.cpp$' '^kernels/.*\.inl$' '^cpp/bind/module.cpp$' '^python/jang_tools/py.typed$' \
  '^python/jang_tools/_core.pyi$'; do
  expect "$work/sdist.txt" "$wanted"
done
refuse "$work/sdist.txt" '\.(so|o|safetensors|npz)$|__pycache__|^(build|tests|examples|\.git|\.venv|\.ci)'

echo "==> wheel, installed in a fresh environment"
fresh wheel
python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work/dist" .
python -m zipfile -l "$work"/dist/*.whl | awk '{print $1}' >"$work/wheel.txt"
for wanted in '^jang_tools/__init__.py$' '^jang_tools/cli/main.py$' '^jang_tools/_core\..*\.(so|pyd)$' \
  '^jang_tools/_core.pyi$' '^jang_tools/py.typed$' 'dist-info/licenses/LICENSE$' 'dist-info/licenses/NOTICE$'; do
  expect "$work/wheel.txt" "$wanted"
done
refuse "$work/wheel.txt" '\.(cpp|h|inl|a|cmake)$|CMakeLists|__pycache__|^(cpp|kernels|tests|share|lib)/'
(cd python && find jang_tools -name '*.py' | sort) >"$work/python.txt"
missing=$(grep -vxFf "$work/wheel.txt" "$work/python.txt" || true)
[ -z "$missing" ] || { echo "error: not in the wheel: $missing" >&2; exit 1; }
"$work/wheel/bin/pip" install --quiet "$work"/dist/*.whl
use wheel

echo "==> sdist, installed in a fresh environment"
fresh sdist
"$work/sdist/bin/pip" install --quiet "$work"/dist/*.tar.gz
use sdist
echo "packages: ok"
