#!/bin/bash
# Converts the bundled model to JANG_4L, looks at the result, checks it, and lets it talk. Needs `jang` on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
source=examples/tiny-prose-llama
output=${1:-build/demo/tiny-prose-llama-JANG_4L}
mkdir -p "$(dirname "$output")"

show() {
  local word line=
  for word in "$@"; do
    case $word in *' '*) word="'$word'" ;; esac
    line+=" $word"
  done
  printf '\n$%s\n' "$line"
  "$@"
}

show jang convert --model "$source" --profile JANG_4L --output "$output" --overwrite
show jang inspect "$output"
show jang verify "$output"
show jang verify "$output" --against "$source"
show jang run --model "$output" --prompt 'Once upon a time there was a little' --max-tokens 80 \
  --repetition-penalty 1.3
show jang run --model "$output" --prompt 'The captain looked at the sea and' --max-tokens 80 \
  --temperature 0.7 --seed 7
printf '\nThe converted model is in %s; talk to it with:\n    %s run --model %s\n' "$output" "$(command -v jang)" "$output"
