#!/usr/bin/env bash
# Runs a whole generation on the GPU path and compares its logits with the CPU's.
#
# Usage: scripts/test-gpu.sh [--feature webgpu|vulkan|cuda] [--software] [--help]
#
#   --feature NAME   the backend to build (default: vulkan where there is a GPU, else webgpu)
#   --software       use the software device even when there is a GPU
#   --help           this text
#
# Without a GPU it runs on lavapipe, Mesa's software device: slow, but the same path. The first
# build takes 15 to 25 minutes on two cores. The model is the one that scripts/test.sh keeps, or
# AITHER_TEST_MODEL.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

feature='' software=no
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage && exit 0 ;;
    --software) software=yes ;;
    --feature)
      case ${2:-} in
        vulkan | webgpu | cuda) feature=$2 ;;
        *) usage_error "--feature takes vulkan, webgpu or cuda, not '${2:-}'" ;;
      esac
      shift
      ;;
    *) usage_error "unknown argument $1" ;;
  esac
  shift
done

# Prints the file that tells the Vulkan loader of lavapipe, or nothing.
find_lavapipe() {
  local file
  for file in /usr/share/vulkan/icd.d/lvp_icd*.json; do
    [ ! -f "$file" ] || printf '%s\n' "$file"
  done | head -n 1
}

require_build_tools
if [ $software = no ] && found=$(find_gpu); then
  say "running on $found"
  feature=${feature:-vulkan}
else
  software=yes
  # SPIR-V from the `vulkan` feature crashes this device; WGSL through naga works.
  feature=webgpu
  say "no GPU: running on the software device (lavapipe)"
  icd=$(find_lavapipe)
  if [ -z "$icd" ]; then
    install_packages "lavapipe, Mesa's software Vulkan device" mesa-vulkan-drivers libvulkan1
    icd=$(find_lavapipe)
    [ -n "$icd" ] || die "mesa-vulkan-drivers came without lavapipe's lvp_icd*.json"
  fi
  export VK_ICD_FILENAMES=$icd VK_DRIVER_FILES=$icd AITHER_SOFTWARE_GPU=1
  # The loader wants a private folder of this user.
  if [ -z "${XDG_RUNTIME_DIR:-}" ]; then
    XDG_RUNTIME_DIR=$(mktemp -d)
    export XDG_RUNTIME_DIR
    trap 'rm -rf -- "$XDG_RUNTIME_DIR"' EXIT
  fi
fi

cache=${AITHER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/aither}
export AITHER_TEST_MODEL=${AITHER_TEST_MODEL:-$cache/$MODEL_FILE}
[ -f "$AITHER_TEST_MODEL" ] ||
  die "no model at $AITHER_TEST_MODEL; scripts/test.sh fetches it, or set AITHER_TEST_MODEL"

cargo test --release --locked -p aither-inference --features "$feature" --test gpu -- --nocapture
