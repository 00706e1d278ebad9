#!/usr/bin/env bash
# Builds the node, fetches the default models, starts the node, says what to try.
#
# Usage: scripts/run.sh [--no-gpu] [--gpu FEATURE] [--help] [NODE FLAGS]
#
#   --no-gpu        build for the CPU even when there is a GPU
#   --gpu FEATURE   build this GPU backend, found GPU or not: vulkan, webgpu or cuda
#   --help          this text; `aither-node run --help` lists the node's flags
#
# All other flags go to `aither-node run`, for example:
#   scripts/run.sh --http 127.0.0.1:9000 --data-dir ~/node-b
#
# The chat model (about 100 MB) and the embedding model (about 85 MB) are fetched once, with a
# checksum, unless --model or --embedding-model names another.
# Ctrl-C stops the node after it has answered what it is working on; a second one at once.
set -euo pipefail
# Relative paths among the flags mean the caller's folder, so the node is started from there.
caller=$PWD
# shellcheck source=scripts/lib.sh
. "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

# A release build of all dependencies takes about this much.
DISK_NEEDED_GIB=6
# A node loads no model before it is ready; a slow disk may still take a while.
READY_SECONDS=120

gpu=auto data_dir='' own_model=no own_embedding_model=no
pull_flags=() node_flags=()

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help) usage && exit 0 ;;
      --no-gpu) gpu=none ;;
      --gpu)
        case ${2:-} in
          vulkan | webgpu | cuda) gpu=$2 ;;
          *) usage_error "--gpu takes vulkan, webgpu or cuda, not '${2:-}'" ;;
        esac
        shift
        ;;
      --data-dir | --config)
        [ $# -gt 1 ] || usage_error "$1 takes a value"
        pull_flags+=("$1" "$2") node_flags+=("$1" "$2")
        shift
        ;;
      --data-dir=* | --config=*) pull_flags+=("$1") node_flags+=("$1") ;;
      --model | --model=*) own_model=yes node_flags+=("$1") ;;
      --embedding-model | --embedding-model=*) own_embedding_model=yes node_flags+=("$1") ;;
      *) node_flags+=("$1") ;;
    esac
    shift
  done
}

choose_gpu() {
  local found
  if [ "$gpu" = auto ]; then
    if found=$(find_gpu); then
      gpu=vulkan
      say "found a GPU: $found"
      say "building the Vulkan backend in; the first build takes 15 to 25 minutes longer" \
        "(--no-gpu leaves it out)"
    else
      gpu=none
      say "no GPU found: building for the CPU"
    fi
  fi
  if [ "$gpu" = vulkan ] && ! ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1'; then
    install_packages "the Vulkan loader" libvulkan1 mesa-vulkan-drivers
  fi
}

build() {
  local free flags=()
  mkdir -p -- "$TARGET"
  free=$(($(df -Pk -- "$TARGET" | awk 'NR == 2 { print $4 }') / 1024 / 1024))
  if [ ! -x "$TARGET/release/aither-node" ]; then
    say "building (the first time takes 10 to 20 minutes on two cores)"
    [ "$free" -ge $DISK_NEEDED_GIB ] ||
      warn "only $free GiB free in $TARGET; the build takes about $DISK_NEEDED_GIB GiB"
  fi
  [ "$gpu" = none ] || flags=(--features "aither-node/$gpu")
  cargo build --release --locked -p aither-node -p aither-cli ${flags[@]+"${flags[@]}"}
}

# Asks the node itself, which knows all layers of its configuration; finds bad flags early, too.
find_data_dir() {
  local config
  config=$(cd -- "$caller" && "$node" run ${node_flags[@]+"${node_flags[@]}"} --print-config) ||
    exit $?
  data_dir=$(cd -- "$caller" && python3 -c 'import os, sys
try:
    import tomllib
except ModuleNotFoundError:
    from pip._vendor import tomli as tomllib
print(os.path.abspath(tomllib.loads(sys.argv[1])["data_dir"]))' "$config")
}

pull() {
  (cd -- "$caller" && "$node" models pull "$1" ${pull_flags[@]+"${pull_flags[@]}"})
}

fetch_models() {
  [ $own_model = yes ] || pull "$MODEL_NAME" ||
    die "could not fetch $MODEL_NAME (see above). Start again to resume, or give a GGUF file
of your own: scripts/run.sh --model FILE"
  # The node works without it, so that a failure here is no reason not to start.
  [ $own_embedding_model = yes ] || pull "$EMBEDDING_NAME" ||
    warn "could not fetch $EMBEDDING_NAME (see above): there will be no embeddings. Start again to
resume, or give a GGUF file of your own: scripts/run.sh --embedding-model FILE"
}

# wait_until_ready PID: prints the node's address once it answers /ready; fails when it ends.
wait_until_ready() {
  python3 - "$data_dir/run.json" "$1" "$READY_SECONDS" <<'PYTHON'
import json, os, sys, time, urllib.request
run_file, pid, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
deadline = time.monotonic() + seconds
while time.monotonic() < deadline:
    try:
        os.kill(pid, 0)
        run = json.load(open(run_file, encoding="utf-8"))
        if run["pid"] == pid and no_proxy.open(run["http"] + "/ready", timeout=5).status == 200:
            print(run["http"])
            sys.exit(0)
    except ProcessLookupError:
        sys.exit(1)  # It has said why on its own standard error.
    except (OSError, ValueError, KeyError):
        pass  # Not there yet, or half way.
    except KeyboardInterrupt:
        sys.exit(1)
    time.sleep(0.1)
sys.exit(f"the node was not ready after {seconds:.0f} s")
PYTHON
}

say_what_to_try() {
  local url=$1 cli=$TARGET/release/aither-cli model="\"$MODEL_NAME\""
  [ $own_model = no ] || model='client.models.list().data[0].id'
  cat <<TEXT

${bold}The node is ready at $url$plain  (Ctrl-C stops it). Three things to try:

1. curl
   curl $url/v1/llm/chat -H 'content-type: application/json' \\
     -d '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}'

2. Python, with the client of OpenAI or of Ollama
   pip install openai
   python3 - <<'END'
   from openai import OpenAI
   key = open("$data_dir/admin.key").read().strip()
   client = OpenAI(base_url="$url/v1", api_key=key)
   question = [{"role": "user", "content": "Name three colours."}]
   for chunk in client.chat.completions.create(
       model=$model, messages=question, stream=True, max_tokens=100, temperature=0.2
   ):
       print(chunk.choices[0].delta.content or "", end="", flush=True)
   print()
   END

3. A chat in the terminal
   AITHEROS_SERVER=$url '$cli' chat

TEXT
}

# Without this, a Ctrl-C that a child swallows would not stop the steps before the node starts.
trap 'exit 130' INT
parse "$@"
require_build_tools
choose_gpu
build
node=$TARGET/release/aither-node
find_data_dir
fetch_models

# With job control the node is a process group of its own, so that Ctrl-C reaches this script
# alone and the node gets one signal from it, not two: its second one means "at once".
set -m
(cd -- "$caller" && exec "$node" run ${node_flags[@]+"${node_flags[@]}"}) </dev/null &
pid=$!
set +m
trap 'kill -s INT "$pid" 2>/dev/null' INT
trap 'kill -s TERM "$pid" 2>/dev/null' TERM HUP

if url=$(wait_until_ready "$pid"); then
  say_what_to_try "$url"
fi

# A signal interrupts `wait`, so it is asked again until the node is gone; asked once more, bash
# still knows how it ended (127: it told us already).
status=0
while kill -0 "$pid" 2>/dev/null; do
  if wait "$pid"; then status=0; else status=$?; fi
done
if wait "$pid" 2>/dev/null; then
  status=0
else
  last=$?
  [ $last = 127 ] || status=$last
fi
exit $status
