#!/bin/bash
# Shortens a verbose build to one line a step; shows everything that was held back if the build fails.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
while IFS= read -r line; do
  printf '%s\n' "$line" >>"$log"
  case $line in
    *"["[0-9]*"/"[0-9]*"]"* | *"Collecting "* | *"Successfully "*) printf '%s\n' "${line:0:140}" ;;
    *rror:* | *"CMake Error"* | *missing*) printf '%s\n' "$line" ;;
  esac
done
if ! grep -q 'Successfully installed' "$log"; then
  echo "--- the build failed; its last lines:" >&2
  tail -n 40 "$log" >&2
fi
