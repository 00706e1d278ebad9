# Shared by the scripts beside it: words on the terminal, and what a machine must have.
# Sourced, not run. Sets ROOT (the repository) and TARGET (cargo's output) and enters ROOT.
# shellcheck shell=bash

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
# A relative target directory means the caller's folder, so it is resolved before `cd`.
case ${CARGO_TARGET_DIR:-} in
  '') TARGET=$ROOT/target ;;
  /*) TARGET=$CARGO_TARGET_DIR ;;
  *) TARGET=$PWD/$CARGO_TARGET_DIR ;;
esac
export CARGO_TARGET_DIR=$TARGET
cd -- "$ROOT" || exit 1
# rustup puts cargo here; a login shell would have found it.
PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin

# The default chat model: its name in the node's catalogue, and what its file must hash to.
MODEL_NAME=smollm2:135m
MODEL_FILE=SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
# The same of the embedding model, whose file the node makes of what it fetches.
EMBEDDING_NAME=all-minilm:l6-v2
EMBEDDING_FILE=all-minilm-l6-v2.f16.gguf
EMBEDDING_SHA256=41ef5792f92d6239940e5c4fb9af64801576586380fc2afac7f62daada621ea0
export MODEL_NAME MODEL_FILE MODEL_SHA256 EMBEDDING_NAME EMBEDDING_FILE EMBEDDING_SHA256

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
  bold=$'\e[1m' red=$'\e[31m' yellow=$'\e[33m' plain=$'\e[0m'
else
  bold='' red='' yellow='' plain=''
fi

say() { printf '%s\n' "$bold$*$plain" >&2; }
warn() { printf '%s\n' "${yellow}warning:$plain $*" >&2; }
die() {
  printf '%s\n' "${red}error:$plain $*" >&2
  exit 1
}
usage_error() {
  usage >&2
  printf '\n%s\n' "${red}error:$plain $*" >&2
  exit 2
}
have() { command -v "$1" >/dev/null 2>&1; }

# Prints the comment block at the top of the script that is running.
usage() { sed -n '2,/^[^#]/{/^#/!d;s/^# \{0,1\}//;p;}' "$0"; }

# install_packages WHY PACKAGE...: installs Debian packages as root, else says how to.
install_packages() {
  local why=$1 sudo=''
  shift
  if [ "$(id -u)" != 0 ] || ! have apt-get; then
    [ "$(id -u)" = 0 ] || sudo='sudo '
    die "$why is missing. Install it and start again:
  Debian, Ubuntu:  ${sudo}apt-get install -y $*
  elsewhere:       your system's packages that provide the same"
  fi
  say "installing $* ($why is missing)"
  { apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >&2 ||
    die "could not install $*; see apt-get's words above"
}

# Names, or installs, what a build needs: Rust, a C compiler and linker, Python 3 with pip.
require_build_tools() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  have cargo || die "Rust is missing. Install it from https://rustup.rs, then start again:
  curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
  found=$(rustc --version | cut -d' ' -f2)
  if [ "$(printf '%s\n%s\n' "$wanted" "${found%%-*}" | sort -V | head -n 1)" != "$wanted" ]; then
    die "Rust $found is too old, $wanted or newer is needed. Update it: rustup update stable"
  fi
  if ! have cc && ! have gcc && ! have clang; then
    install_packages "a C compiler" gcc libc6-dev
  fi
  have python3 || install_packages "Python 3" python3 python3-venv python3-pip
  python3 -c 'import venv, ensurepip' 2>/dev/null ||
    install_packages "Python's venv module" python3-venv
  python3 -m pip --version >/dev/null 2>&1 || install_packages "Python's pip" python3-pip
}

# sha256_of FILE: prints the checksum with what every Python has.
sha256_of() {
  python3 -c 'import hashlib, sys
with open(sys.argv[1], "rb") as file:
    print(hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest")
          else hashlib.sha256(file.read()).hexdigest())' "$1"
}

# Prints what makes us think that there is a GPU; fails when nothing does.
find_gpu() {
  local node vendor name
  if have nvidia-smi && name=$(nvidia-smi -L 2>/dev/null | head -n 1) && [ -n "$name" ]; then
    printf '%s\n' "${name%% (UUID*}"
    return
  fi
  for node in /sys/class/drm/renderD*/device/vendor; do
    [ -r "$node" ] || continue
    vendor=$(cat "$node")
    case $vendor in
      0x10de) name=NVIDIA ;;
      0x1002) name=AMD ;;
      0x8086) name=Intel ;;
      *) continue ;; # A virtual display, as servers have: no compute there.
    esac
    printf '%s GPU (%s)\n' "$name" "$(basename "${node%/device/vendor}")"
    return
  done
  return 1
}
