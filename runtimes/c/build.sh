#!/bin/sh
# Build the core as the shared library that Python loads: sh runtimes/c/build.sh [output]
set -e
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-"$here/../../spectral_edge/_native/_core.so"}
${CC:-cc} -O3 -std=c99 -Wall -Wextra -Wconversion -Wshadow -Wvla -Werror -shared -fPIC \
    -fvisibility=hidden ${CFLAGS:-} -I"$here/include" "$here"/src/*.c -o "$out"
