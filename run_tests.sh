#!/usr/bin/env bash
# Sets up what the tests need on this machine, then runs every check and the whole suite.
# What can't be had is said at the end and makes the run fail, unless --allow-missing is given.
set -euo pipefail

# shellcheck source=deploy/bootstrap.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/deploy/bootstrap.sh"
cd "$ROOT"

ALLOW_MISSING=no
DATABASES=(sqlite)
PYTEST_ARGUMENTS=()
MISSING=() # programs that could not be had
FAILED=()  # checks that did not pass

main() {
  parse "$@"
  ensure_programs
  ensure_environment development requirements-dev.txt requirements-celery.txt requirements-s3.txt requirements.txt
  # The checks below read settings: they shall not find this installation's, nor make keys or logs here.
  SCRATCH=$(mktemp -d)
  trap 'rm -rf "$SCRATCH"' EXIT
  run "ruff check" "$PYTHON" -m ruff check --extend-exclude .venv .
  run "ruff format" "$PYTHON" -m ruff format --check --extend-exclude .venv .
  run "mypy" in_scratch "$PYTHON" -m mypy .
  run "manage.py check" in_scratch "$PYTHON" manage.py check
  run "makemigrations --check" in_scratch "$PYTHON" manage.py makemigrations --check --dry-run
  local database
  local narrowed=()
  # Most of the slow tests wait for something. An `-n 0` among the arguments (for --pdb) wins.
  local at_once=(-n "$(($(nproc) > 2 ? $(nproc) : 2))" --dist worksteal)
  for database in "${DATABASES[@]}"; do
    run "pytest ($database)" "$PYTHON" -m pytest -W error -rs --durations=20 "${at_once[@]}" --system-db "$database" "${narrowed[@]}" "${PYTEST_ARGUMENTS[@]}"
    # These never touch the system database, or no more of it than others do: once is enough.
    narrowed=(--ignore=tests/writers --ignore=tests/datasources --ignore=tests/deploy)
    narrowed+=(--ignore=tests/tasks/test_limits.py --ignore=tests/tasks/test_celery.py)
    narrowed+=(--ignore=tests/tasks/test_daemon.py --ignore=tests/tasks/test_clock_jumps.py --ignore=tests/tasks/test_executors.py)
    narrowed+=(--ignore=tests/faults/test_single_faults.py --ignore=tests/faults/test_checker.py)
    narrowed+=(--ignore=tests/notifications/test_http_guard.py --ignore=tests/notifications/test_robots.py)
    narrowed+=(--ignore=tests/notifications/test_email.py --ignore=tests/notifications/test_transport_contract.py)
    narrowed+=(--ignore=tests/notifications/test_messages.py --ignore=tests/site/test_browser.py)
    narrowed+=(--ignore=tests/api/test_schema.py --ignore=tests/api/test_docs.py)
    narrowed+=(--ignore=tests/access/test_permission_matrix.py --ignore=tests/site/test_import_direction.py)
    narrowed+=(--ignore=tests/core/test_clock_changes.py --ignore=tests/core/test_documentation.py)
    narrowed+=(--ignore-glob='tests/site/*browser.py' --ignore=tests/site/test_every_page.py)
    narrowed+=(--ignore=tests/site/test_sql_editor.py --ignore=tests/site/test_sql_answers.py)
    narrowed+=(--ignore=tests/site/test_source_admin.py --ignore=tests/site/test_channel_trial.py)
    narrowed+=(--ignore=tests/tasks/test_importlegacy.py --ignore=tests/symptoms)
    narrowed+=(--ignore=tests/storage/test_contract.py --ignore=tests/storage/test_settings.py)
  done
  sum_up
}

usage() {
  say "用法：./run_tests.sh [--system-db sqlite|mysql|postgresql|all] [--allow-missing] [pytest 的参数……]
  --system-db      系统数据库的种类，默认 sqlite；all 表示三种都跑（与系统数据库无关的测试只跑一遍）
  --allow-missing  缺少的程序只提示，相关测试跳过；不给此选项时缺少即失败" \
    "Usage: ./run_tests.sh [--system-db sqlite|mysql|postgresql|all] [--allow-missing] [arguments of pytest …]
  --system-db      the kind of system database, sqlite unless given; all: on each of the three (tests that never touch it run once)
  --allow-missing  programs that can't be had are only named, and their tests skipped; otherwise they fail the run"
}

parse() {
  while (($#)); do
    case "$1" in
      --system-db=*) set_databases "${1#*=}" ;;
      --system-db)
        set_databases "${2-}"
        shift
        ;;
      --allow-missing) ALLOW_MISSING=yes ;;
      --help) usage && exit 0 ;;
      *) PYTEST_ARGUMENTS+=("$1") ;;
    esac
    shift
  done
  if [[ $ALLOW_MISSING == yes ]]; then export EXPORTER_TESTS_ALLOW_MISSING=1; fi
}

set_databases() {
  case "$1" in
    sqlite | mysql | postgresql) DATABASES=("$1") ;;
    all) DATABASES=(sqlite mysql postgresql) ;;
    *) usage >&2 && exit 2 ;;
  esac
}

# ---- programs

# The Debian packages whose programs are not on this machine.
missing_programs() {
  local path="$PATH:/usr/sbin:/usr/local/sbin"
  PATH=$path command -v mariadbd >/dev/null || PATH=$path command -v mysqld >/dev/null || echo mariadb-server
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || echo postgresql
  PATH=$path command -v redis-server >/dev/null || echo redis-server
  command -v strace >/dev/null || echo strace
  PATH=$path command -v ip >/dev/null || echo iproute2
  PATH=$path command -v nginx >/dev/null || echo nginx-light
  command -v systemd-analyze >/dev/null || echo systemd
  compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null || echo faketime
  command -v soffice >/dev/null || command -v libreoffice >/dev/null || echo libreoffice-calc-nogui
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || echo chromium
  compgen -G '/usr/share/fonts/opentype/noto/NotoSansCJK*' >/dev/null || echo fonts-noto-cjk
}

ensure_programs() {
  local wanted package
  mapfile -t wanted < <(missing_programs)
  ((${#wanted[@]})) || return 0
  if can_install && ! install_packages "${wanted[@]}"; then
    # One that does not exist here (Ubuntu has no chromium) must not keep the others away.
    for package in "${wanted[@]}"; do install_packages "$package" || true; done
  fi
  disable_services "${wanted[@]}"
  mapfile -t MISSING < <(missing_programs)
}

# The tests start servers of their own; those of the packages that we brought shall not start with the machine either.
disable_services() {
  [[ -d /run/systemd/system ]] || return 0
  local package
  for package in "$@"; do
    case "$package" in
      mariadb-server) as_root systemctl disable --now mariadb >/dev/null 2>&1 || true ;;
      redis-server) as_root systemctl disable --now redis-server >/dev/null 2>&1 || true ;;
      nginx-light) as_root systemctl disable --now nginx >/dev/null 2>&1 || true ;;
      postgresql) as_root systemctl disable --now postgresql >/dev/null 2>&1 || true ;;
    esac
  done
}

# ---- checks

# run NAME COMMAND…: run it, note it when it fails, and go on: one run shall tell everything.
run() {
  local name=$1
  shift
  step "$name" "$name"
  if ! "$@"; then FAILED+=("$name"); fi
}

in_scratch() {
  env EXPORTER_KEYS_FILE="$SCRATCH/keys.json" \
    EXPORTER_SYSTEM_DATABASE__TYPE=sqlite EXPORTER_SYSTEM_DATABASE__SQLITE_PATH="$SCRATCH/system.db" \
    EXPORTER_EXPORT__TEMP_DIR="$SCRATCH/temp" EXPORTER_EXPORT__OUTPUT_DIR="$SCRATCH/exports" \
    EXPORTER_LOGGING__FILE="$SCRATCH/app.log" "$@"
}

sum_up() {
  local name ending=0
  echo
  for name in "${MISSING[@]}"; do
    warn "缺少程序，无法安装：$name（apt-get install $name）" "Missing, and could not be installed: $name (apt-get install $name)"
    if [[ $ALLOW_MISSING == no ]]; then ending=1; fi
  done
  for name in "${FAILED[@]}"; do
    warn "未通过：$name" "Failed: $name"
    ending=1
  done
  if ((ending)); then die "检查没有全部通过。" "Not everything passed."; fi
  if ((${#MISSING[@]})); then
    warn "在缺少以上程序的情况下通过（--allow-missing）。" "Passed without the programs above (--allow-missing)."
  else
    good "全部通过" "Everything passed"
  fi
}

main "$@"
