#!/usr/bin/env bash
# Puts a version of the system beside the one that runs, and goes over to it; the first time, it only installs.
# For an installation as docs/operations.md makes it. Safe to run again: what is done already is not done twice.
set -euo pipefail
umask 022

# shellcheck source=deploy/bootstrap.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/bootstrap.sh"

HOME_OF_ALL=/opt/data-export-system
SOURCE=$HOME_OF_ALL/source
CURRENT=$HOME_OF_ALL/current
PREVIOUS=$HOME_OF_ALL/previous
BACKUPS=/var/lib/data-export-system/backups
KEPT=3      # versions; exports that outlive an upgrade still read theirs
ANSWERS=120 # seconds in which web and scheduler must be well after a start

main() {
  local action=upgrade backup=yes revision=""
  for argument in "$@"; do
    case "$argument" in
      --prepare | --back) action=${argument#--} ;;
      --no-backup) backup=no ;;
      -h | --help) usage && exit 0 ;;
      -*) usage >&2 && exit 2 ;;
      *) revision=$argument ;;
    esac
  done
  [[ $EUID -eq 0 ]] || die "请用 root 运行。" "Run this as root."
  exec 9>"$HOME_OF_ALL/upgrade.lock"
  flock -n 9 || die "另一个 upgrade.sh 正在运行。" "Another upgrade.sh is at work."
  case "$action" in
    prepare) prepare "$revision" ;;
    back) go_back ;;
    upgrade) upgrade "$revision" "$backup" ;;
  esac
}

usage() {
  say "用法：upgrade.sh [选项] [版本]
  （无选项）    取得版本（默认为远程仓库的主分支），备份，迁移，切换，重启，检查
  --prepare     只取得并安装到旁边；正在运行的系统不受影响
  --back        回到上一个版本（数据库不变：迁移只增不减）
  --no-backup   不备份" "Usage: upgrade.sh [option] [revision]
  (none)        fetch the revision (the repository's main branch when left out), back up, migrate, go over, restart, look
  --prepare     only fetch it and install it beside; nothing that runs is touched
  --back        back to the version before (the database stays: migrations only add)
  --no-backup   without a backup"
}

upgrade() {
  prepare "$1"
  # A configuration that the new version does not take is told now, while the old one runs.
  "$RELEASE/deploy/data-export" check >/dev/null || die "新版本不接受现有配置，原因见上；什么都没有改变。" \
    "The new version does not take the configuration, see above. Nothing has been changed."
  if [[ -e $CURRENT && $(readlink -f "$CURRENT") != "$RELEASE" ]]; then
    if [[ $2 == yes ]]; then back_up; fi
    drain
  fi
  step "正在迁移数据库……" "Migrating the database …"
  # The web server of the old version goes on meanwhile: migrations only add.
  "$RELEASE/deploy/data-export" migrate --noinput --verbosity 0 || {
    resume
    die "迁移失败，原因见上；旧版本继续运行。" "The migration failed, see above. The old version goes on."
  }
  go_over_to "$RELEASE"
  start_again
}

# ---- a version beside the others

# prepare REVISION: fetches it and installs it under releases/. Sets RELEASE.
prepare() {
  git -C "$SOURCE" fetch --quiet --tags origin || warn "无法从远程仓库取得新版本，使用本地已有的。" \
    "The repository can't be reached; what is here already is used."
  local wanted=${1:-origin/HEAD} commit
  commit=$(git -C "$SOURCE" rev-parse --verify --quiet "$wanted^{commit}") || die "没有版本 $wanted。" "There is no revision $wanted."
  RELEASE=$HOME_OF_ALL/releases/${commit:0:12}
  if [[ -e $RELEASE/.complete ]]; then return; fi
  step "正在安装版本 ${commit:0:12} ……" "Installing version ${commit:0:12} …"
  rm -rf "$RELEASE" && mkdir -p "$RELEASE"
  git -C "$SOURCE" archive "$commit" | tar -x -C "$RELEASE"
  local python
  python=$(system_python) || die "需要 Python $MINIMUM_PYTHON 或更新的版本。" "Python $MINIMUM_PYTHON or newer is needed."
  "$python" -m venv "$RELEASE/.venv"
  "$RELEASE/.venv/bin/python" -m pip install --no-input --disable-pip-version-check --quiet --require-hashes \
    -r "$RELEASE/requirements.lock"
  if [[ -n "${EXPORTER_WITH_CELERY:-}" ]]; then
    "$RELEASE/.venv/bin/python" -m pip install --no-input --disable-pip-version-check --quiet -r "$RELEASE/requirements-celery.txt"
  fi
  if [[ -n "${EXPORTER_WITH_S3:-}" ]]; then
    "$RELEASE/.venv/bin/python" -m pip install --no-input --disable-pip-version-check --quiet -r "$RELEASE/requirements-s3.txt"
  fi
  collect_static
  "$RELEASE/.venv/bin/python" -m compileall -q -x '/\.venv/|/tests/' "$RELEASE"
  # The code belongs to root: what runs it can't change it.
  chmod -R a+rX,go-w "$RELEASE"
  touch "$RELEASE/.complete"
  forget_old
}

# With keys and paths of its own: those of the installation are not root's to make.
collect_static() {
  local scratch
  scratch=$(mktemp -d)
  (
    cd "$RELEASE"
    EXPORTER_SECRET_KEY=none EXPORTER_ENCRYPTION_KEYS=none EXPORTER_JWT_KEY=none \
      EXPORTER_LOGGING__FILE="$scratch/log" EXPORTER_SYSTEM_DATABASE__SQLITE_PATH="$scratch/system.db" \
      .venv/bin/python manage.py collectstatic --noinput --verbosity 0
  )
  rm -rf "$scratch"
}

forget_old() {
  local release
  # shellcheck disable=SC2012  # names that this script made
  ls -1td "$HOME_OF_ALL"/releases/* | tail -n +$((KEPT + 1)) | while read -r release; do
    case "$release" in
      "$RELEASE" | "$(readlink -f "$CURRENT")" | "$(readlink -f "$PREVIOUS")") ;;
      *) rm -rf "$release" ;;
    esac
  done
}

# ---- going over

back_up() {
  step "正在备份……" "Backing up …"
  "$CURRENT/deploy/data-export" system backup --output "$BACKUPS" || die \
    "备份失败，原因见上；什么都没有改变。（不备份：--no-backup）" \
    "The backup failed, see above. Nothing has been changed. (Without one: --no-backup)"
}

has_systemd() { [[ -d /run/systemd/system ]]; }
runs() { has_systemd && systemctl is-active --quiet "$1"; }

# No new runs; those that are on their way end. Whatever becomes due waits for the new version. The web server stays.
drain() {
  SCHEDULED=no
  if runs data-export-scheduler; then
    SCHEDULED=yes
    step "正在等待运行中的导出完成（最长 scheduler.drain_timeout）……" \
      "Waiting for the exports that are running (scheduler.drain_timeout at most) …"
    systemctl stop data-export-scheduler
  fi
}

resume() { if [[ ${SCHEDULED:-no} == yes ]]; then systemctl start data-export-scheduler; fi; }

# go_over_to RELEASE: in one step, and remembers where from.
go_over_to() {
  local from=""
  if [[ -e $CURRENT ]]; then from=$(readlink -f "$CURRENT"); fi
  if [[ -n $from && $from != "$1" ]]; then point "$PREVIOUS" "$from"; fi
  point "$CURRENT" "$1"
  install -m 0644 "$1"/deploy/systemd/*.service "$1"/deploy/systemd/*.target /etc/systemd/system/
  if has_systemd; then systemctl daemon-reload; fi
}

point() { ln -sfn "$2" "$1.new" && mv -T "$1.new" "$1"; }

# What ran before runs again; the first time, nothing did.
start_again() {
  local any=no
  if runs data-export-web; then
    systemctl restart data-export-web && any=yes
  fi
  if [[ ${SCHEDULED:-no} == yes ]] || runs data-export-scheduler; then
    systemctl restart data-export-scheduler && any=yes
  fi
  if [[ $any == no ]]; then
    good "已安装 $(readlink -f "$CURRENT")" "Installed: $(readlink -f "$CURRENT")"
  elif is_well; then
    good "已切换到 $(readlink -f "$CURRENT")" "Running: $(readlink -f "$CURRENT")"
  else
    die "新版本没有正常应答。日志：journalctl -u 'data-export-*'；回到旧版本：$0 --back" \
      "The new version does not answer as it should. Its log: journalctl -u 'data-export-*'; back to the old one: $0 --back"
  fi
}

is_well() {
  local end=$((SECONDS + ANSWERS))
  while ((SECONDS < end)); do
    if "$CURRENT/deploy/data-export" shell -c "$LOOK" >/dev/null 2>&1; then return 0; fi
    sleep 1
  done
  return 1
}

# The web server where this host has one; and a scheduler that lives, on whichever host.
LOOK='
import subprocess, urllib.request
from django.conf import settings
from tasks.models import SchedulerProcess
assert SchedulerProcess.objects.alive().exists()
if subprocess.run(["systemctl", "is-active", "--quiet", "data-export-web"]).returncode == 0:
    web = settings.CONFIG.web
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)
    address = f"[{host}]" if ":" in host else host
    asked = urllib.request.Request(f"http://{address}:{web.port}/healthz", headers={"Host": "localhost"})
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=5).close()
'

go_back() {
  [[ -e $PREVIOUS ]] || die "没有上一个版本。" "There is no version before this one."
  local release
  release=$(readlink -f "$PREVIOUS")
  drain
  go_over_to "$release"
  start_again
}

main "$@"
