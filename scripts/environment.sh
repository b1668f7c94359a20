# shellcheck shell=bash
# Sourced by the other scripts: makes .venv in the repository root, installs the project into it, puts it first on PATH.
#
#   source scripts/environment.sh base    what training needs
#   source scripts/environment.sh dev     and what the tests and the linter need
#
# PYTHON names the interpreter that makes a new .venv (default: python3). What is installed already is kept: a second
# call only compares a stamp, and a torch that is in .venv stays the one it is.

_retinanet_say() { printf 'environment: %s\n' "$*" >&2; }

# The interpreter that makes the environment, checked before anything is written.
_retinanet_check_python() {
    if ! command -v "$1" >/dev/null; then
        _retinanet_say "found no $1; install Python 3.11 or later, or name one: PYTHON=/path/to/python3"
        return 1
    fi
    if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        _retinanet_say "$1 is $("$1" --version 2>&1), but Python 3.11 or later is needed; $2"
        return 1
    fi
}

# Changes of these make an installation stale. The root is among them because an editable install points to it.
_retinanet_fingerprint() {
    cat "$1/setup.py" "$1/pyproject.toml" | cksum && "$1/.venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null && printf '%s\n' "$1"
}

_retinanet_install() {
    local root=$1 extra=$2 venv="$1/.venv"
    local python="$venv/bin/python" constraints="$venv/retinanet-constraints.txt" target=. quiet=()

    # An interrupted run leaves a folder without python, or python without pip; both are completed here.
    if [[ ! -e $python && ! -L $python ]]; then
        _retinanet_check_python "${PYTHON:-python3}" "name one: PYTHON=/path/to/python3" || return 1
        _retinanet_say "making $venv with $("${PYTHON:-python3}" --version)"
        if ! "${PYTHON:-python3}" -m venv "$venv"; then
            _retinanet_say "could not make $venv; on Debian and Ubuntu the module venv is in the package python3-venv"
            return 1
        fi
    fi
    # Never clear it here: the folder may belong to another system that shares this checkout, and work there.
    if ! "$python" -c '' 2>/dev/null; then
        _retinanet_say "$python does not start: its Python is gone, or is another system's; remove $venv and run this again"
        return 1
    fi
    _retinanet_check_python "$python" "remove $venv and run this again" || return 1
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip --upgrade >/dev/null || { _retinanet_say "could not put pip into $venv"; return 1; }
    fi

    # torch comes in builds for many devices, and pip cannot tell which one was chosen: pin the one that is here.
    "$python" - >"$constraints" <<'PY' || return 1
from importlib.metadata import PackageNotFoundError, version

try:
    # A half-unpacked package has a folder but no version.
    if version("torch"):
        print(f"torch=={version('torch')}")
except (PackageNotFoundError, KeyError):
    pass
PY
    [[ $extra == base ]] || target=".[$extra]"
    if [[ -s $constraints ]]; then
        quiet=(--quiet)
        _retinanet_say "installing retinanet ($extra), keeping $(<"$constraints")"
    else
        _retinanet_say "installing retinanet ($extra); downloading torch takes some minutes"
    fi
    # Building in place rather than in pip's isolation needs no download when everything is here already.
    if ! "$python" -c '
import sys, setuptools
sys.exit(tuple(map(int, setuptools.__version__.split(".")[:2])) < (77, 0))' 2>/dev/null; then
        "$python" -m pip install --quiet --disable-pip-version-check "setuptools>=77" || return 1
    fi
    if ! (cd "$root" && "$python" -m pip install "${quiet[@]+"${quiet[@]}"}" --disable-pip-version-check \
        --no-build-isolation --constraint "$constraints" --editable "$target"); then
        _retinanet_say "pip failed (its reason stands above); run this again to continue"
        [[ ! -s $constraints ]] || _retinanet_say "the installed $(<"$constraints") was kept; pyproject.toml says which is needed"
        return 1
    fi
}

_retinanet_environment() {
    local extra=${1:-base} root fingerprint name
    case $extra in
        base | dev) ;;
        *) _retinanet_say "expected base or dev, found $extra"; return 1 ;;
    esac
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P) || return 1

    fingerprint=$(_retinanet_fingerprint "$root") || fingerprint=
    # dev holds all of base, so its stamp serves both.
    for name in "$extra" dev; do
        local stamp="$root/.venv/retinanet-$name.stamp"
        if [[ -n $fingerprint && -f $stamp && $(<"$stamp") == "$fingerprint" ]]; then
            fingerprint=current
        fi
    done
    if [[ $fingerprint != current ]]; then
        _retinanet_install "$root" "$extra" || return 1
        # The stamp comes last: an interrupted run leaves none and is done again.
        _retinanet_fingerprint "$root" >"$root/.venv/retinanet-$extra.stamp" || return 1
        _retinanet_say "$root/.venv is ready"
    fi

    export VIRTUAL_ENV="$root/.venv"
    unset PYTHONHOME
    [[ $PATH == "$VIRTUAL_ENV/bin:"* ]] || export PATH="$VIRTUAL_ENV/bin:$PATH"
}

_retinanet_environment "$@"
