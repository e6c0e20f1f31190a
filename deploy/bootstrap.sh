# What start_all.sh and run_tests.sh share: messages, Debian packages, the virtual environment. Sourced, never run.
# shellcheck shell=bash
#
# Uses only what a minimal Debian or Ubuntu has: bash, coreutils, util-linux, sed, grep. No curl, no ps.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"
MINIMUM_PYTHON="3.11"

# ---- Messages: Chinese for people, English when LANGUAGE asks for it (as manage.py does).

is_english() { [[ "${LANGUAGE:-}" == [eE][nN]* ]]; }

# text CHINESE ENGLISH: the one to show, without a line end.
text() { if is_english; then printf '%s' "$2"; else printf '%s' "$1"; fi; }

say() { printf '%s\n' "$(text "$1" "$2")"; }
step() { paint '1;36' "▸ $(text "$1" "$2")"; }
good() { paint '32' "✓ $(text "$1" "$2")"; }
warn() { paint '1;33' "! $(text "$1" "$2")" >&2; }
die() {
  paint '1;31' "✗ $(text "$1" "$2")" >&2
  exit 1
}

# paint COLOUR LINE: in colour on a terminal, plain elsewhere.
paint() { if [[ -t 1 ]]; then printf '\e[%sm%s\e[0m\n' "$1" "$2"; else printf '%s\n' "$2"; fi; }

# last_lines FILE [COUNT]: what a log says at its end, indented.
last_lines() { if [[ -s "$1" ]]; then tail -n "${2:-15}" "$1" | sed 's/^/    /' >&2; fi; }

# Directories that only their owner may look into. (The umask of the whole script stays: apt runs under it.)
private_directories() { (umask 077 && mkdir -p "$@"); }

# ---- Debian packages, only those that are missing.

# as_root COMMAND…: run it as root, directly or through a sudo that asks nothing. Fails when we may not.
as_root() {
  if [[ $EUID -eq 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo -n "$@"
  else
    return 1
  fi
}

can_install() { command -v apt-get >/dev/null && as_root true; }

# install_packages PACKAGE…: with apt-get. Prints its last lines and fails when one of them can't be had.
install_packages() {
  local log
  log=$(mktemp)
  step "正在安装系统软件包：$*" "Installing system packages: $*"
  # A list that can't be renewed (a foreign repository that is away) need not matter: the installation decides.
  if (
    forbid_services
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q || true
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
  ) >"$log" 2>&1; then
    rm -f "$log"
    return 0
  fi
  last_lines "$log" 8
  rm -f "$log"
  return 1
}

# Until the (sub)shell ends, nothing that apt installs starts a service: policy-rc.d says no (invoke-rc.d(8)).
forbid_services() {
  if [[ -e /usr/sbin/policy-rc.d ]]; then return; fi
  printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d
  as_root chmod 755 /usr/sbin/policy-rc.d
  trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
}

# system_python: the newest usable interpreter, python3 first. Prints its path; fails when there is none.
system_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && is_new_enough "$name"; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

is_new_enough() { "$1" -c "import sys; sys.exit(sys.version_info < (${MINIMUM_PYTHON/./, }))" 2>/dev/null; }

# missing_build_packages PYTHON: what the virtual environment and mysqlclient, which has no wheels, need to be built.
missing_build_packages() {
  local header='import os, sysconfig, sys; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
  local name=${1##*/} # python3, or python3.12 beside an older python3
  "$1" -c 'import ensurepip, venv' 2>/dev/null || echo "$name-venv"
  "$1" -c "$header" 2>/dev/null || echo "$name-dev"
  command -v gcc >/dev/null || echo gcc
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists mysqlclient 2>/dev/null || pkg-config --exists mariadb 2>/dev/null ||
    pkg-config --exists libmariadb 2>/dev/null || echo default-libmysqlclient-dev
}

# ---- The virtual environment.

# requirements_digest FILE…: changes with the files, with the interpreter and with the place of the environment.
requirements_digest() {
  { cat "$@" && "$PYTHON" -VV && echo "$VENV"; } | sha256sum | cut -d ' ' -f 1
}

# ensure_environment NAME FILE…: .venv with what the first FILE lists; the others are those that it includes.
# Quick when nothing has changed since it was last done under NAME.
ensure_environment() {
  local name=$1 stamp="$VENV/.installed-$1"
  shift
  if [[ -f "$stamp" ]] && "$PYTHON" -c '' 2>/dev/null && [[ $(<"$stamp") == "$(requirements_digest "$@")" ]]; then
    return
  fi
  create_environment
  local log="$ROOT/logs/install.log"
  private_directories "$ROOT/logs"
  step "正在安装 Python 依赖（首次约需一两分钟）……" "Installing Python packages (a minute or two the first time) …"
  if ! "$PYTHON" -m pip install --no-input --disable-pip-version-check --progress-bar off -r "$1" >"$log" 2>&1; then
    last_lines "$log"
    die "Python 依赖安装失败，详见 $log。请检查网络后重试。" \
      "The Python packages could not be installed, see $log. Check the network and try again."
  fi
  requirements_digest "$@" >"$stamp"
}

create_environment() {
  if "$PYTHON" -m pip --version >/dev/null 2>&1 && is_new_enough "$PYTHON"; then
    return
  fi
  local python missing
  if ! python=$(system_python); then
    die "需要 Python $MINIMUM_PYTHON 或更新的版本，本机没有找到。" \
      "Python $MINIMUM_PYTHON or newer is needed; there is none on this machine."
  fi
  mapfile -t missing < <(missing_build_packages "$python")
  if ((${#missing[@]})); then
    can_install || die_for_packages "${missing[@]}"
    install_packages "${missing[@]}" || die_for_packages "${missing[@]}"
  fi
  step "正在创建 Python 虚拟环境 .venv ……" "Creating the virtual environment .venv …"
  "$python" -m venv --clear "$VENV"
}

die_for_packages() {
  die "缺少系统软件包，当前用户无法安装。请管理员执行：
    apt-get update && apt-get install -y $*
  然后重新运行本脚本。" "System packages are missing and this user can't install them. Ask an administrator to run:
    apt-get update && apt-get install -y $*
  Then run this script again."
}

manage() { "$PYTHON" "$ROOT/manage.py" "$@"; }
