# shellcheck shell=bash
# Sourced by the other scripts. Creates .venv in the repository root, installs the project into it, and puts it first
# on PATH.
#
#   source scripts/environment.sh base    for training
#   source scripts/environment.sh dev     also for the tests and the linter
#
# PYTHON sets the interpreter for a new .venv (default: python3). If the installation is up to date, nothing is
# installed. The torch build in .venv is never replaced.

_retinanet_say() { printf 'environment: %s\n' "$*" >&2; }

# Check the interpreter before writing anything.
_retinanet_check_python() {
    if ! command -v "$1" >/dev/null; then
        _retinanet_say "found no $1; install Python 3.11 or later, or set PYTHON=/path/to/python3"
        return 1
    fi
    if ! "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        _retinanet_say "$1 is $("$1" --version 2>&1), expected Python 3.11 or later; $2"
        return 1
    fi
}

# An installation is stale if any of these have changed. The root is included because an editable install points to it.
_retinanet_fingerprint() {
    cat "$1/setup.py" "$1/pyproject.toml" | cksum && "$1/.venv/bin/python" -c 'import sys; print(sys.version)' 2>/dev/null && printf '%s\n' "$1"
}

_retinanet_install() {
    local root=$1 extra=$2 venv="$1/.venv"
    local python="$venv/bin/python" constraints="$venv/retinanet-constraints.txt" target=. quiet=()

    # An interrupted run may leave .venv without python, or with python but without pip. Complete it in both cases.
    if [[ ! -e $python && ! -L $python ]]; then
        _retinanet_check_python "${PYTHON:-python3}" "set PYTHON=/path/to/python3" || return 1
        _retinanet_say "creating $venv with $("${PYTHON:-python3}" --version)"
        if ! "${PYTHON:-python3}" -m venv "$venv"; then
            _retinanet_say "could not create $venv; Debian and Ubuntu have the venv module in the package python3-venv"
            return 1
        fi
    fi
    # Never delete .venv here: it may belong to, and work on, another system that shares this checkout.
    if ! "$python" -c '' 2>/dev/null; then
        _retinanet_say "$python does not start: its Python was removed or belongs to another system; remove $venv and run this again"
        return 1
    fi
    _retinanet_check_python "$python" "remove $venv and run this again" || return 1
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        "$python" -m ensurepip --upgrade >/dev/null || { _retinanet_say "could not install pip into $venv"; return 1; }
    fi

    # torch has different builds for different devices, and pip does not know which one was chosen: pin the installed
    # one.
    "$python" - >"$constraints" <<'PY' || return 1
from importlib.metadata import PackageNotFoundError, version

try:
    # A partially unpacked package has a folder but no version.
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
        _retinanet_say "installing retinanet ($extra); downloading torch takes a few minutes"
    fi
    # Without build isolation, pip downloads nothing if all requirements are already installed.
    if ! "$python" -c '
import sys, setuptools
sys.exit(tuple(map(int, setuptools.__version__.split(".")[:2])) < (77, 0))' 2>/dev/null; then
        "$python" -m pip install --quiet --disable-pip-version-check "setuptools>=77" || return 1
    fi
    if ! (cd "$root" && "$python" -m pip install "${quiet[@]+"${quiet[@]}"}" --disable-pip-version-check \
        --no-build-isolation --constraint "$constraints" --editable "$target"); then
        _retinanet_say "pip failed for the reason above; run this again to continue"
        [[ ! -s $constraints ]] || _retinanet_say "the installed $(<"$constraints") was kept; pyproject.toml has the required version"
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
    # dev includes base, so a dev stamp is valid for both.
    for name in "$extra" dev; do
        local stamp="$root/.venv/retinanet-$name.stamp"
        if [[ -n $fingerprint && -f $stamp && $(<"$stamp") == "$fingerprint" ]]; then
            fingerprint=current
        fi
    done
    if [[ $fingerprint != current ]]; then
        _retinanet_install "$root" "$extra" || return 1
        # Write the stamp last: after an interrupted run there is none, so the installation is repeated.
        _retinanet_fingerprint "$root" >"$root/.venv/retinanet-$extra.stamp" || return 1
        _retinanet_say "$root/.venv is ready"
    fi

    export VIRTUAL_ENV="$root/.venv"
    unset PYTHONHOME
    [[ $PATH == "$VIRTUAL_ENV/bin:"* ]] || export PATH="$VIRTUAL_ENV/bin:$PATH"
}

_retinanet_environment "$@"
