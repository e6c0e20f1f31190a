#!/usr/bin/env bash
# Sets the system up on this machine and starts it: web and scheduler, in the background.
# Safe to run again: it installs and changes only what is missing, and starts nothing twice.
set -euo pipefail

# shellcheck source=deploy/bootstrap.sh
source "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/deploy/bootstrap.sh"
cd "$ROOT"

RUN_DIR="$ROOT/data/run"
LOG_DIR="$ROOT/logs"
DEMO_TASK="每日订单明细"
START_TIMEOUT=20 # seconds until the web server must answer
WEB_GRACE=40     # seconds that downloads under way get at a stop; gunicorn's own grace is 30
STARTED=()       # what this run has started

# A process is ours when its command line holds this; the paths tell two installations on one machine apart.
declare -A MARK=([web]="$ROOT/deploy/gunicorn.conf.py" [scheduler]="$ROOT/manage.py"$'\n'"runscheduler")

main() {
  local action=start demo=no
  for argument in "$@"; do
    case "$argument" in
      --demo) demo=yes ;;
      --status | --stop | --restart) action=${argument#--} ;;
      -h | --help) usage && exit 0 ;;
      *) usage >&2 && exit 2 ;;
    esac
  done
  case "$action" in
    status) show_status ;;
    stop) with_lock stop ;;
    restart) with_lock restart "$demo" ;;
    start) with_lock start "$demo" ;;
  esac
}

usage() {
  say "用法：./start_all.sh [选项]
  （无选项）  安装所需软件，启动网页和调度器；已在运行则什么也不改
  --demo      另外载入演示商店和演示任务，并当场导出一次
  --status    查看运行状态；两个进程都在运行时退出码为 0
  --stop      停止：等正在进行的导出完成后退出（再按 Ctrl-C 立即停止）
  --restart   停止后重新启动
  --help      显示本帮助" "Usage: ./start_all.sh [option]
  (none)      install what is needed, start web and scheduler; changes nothing when they run
  --demo      also load the demonstration shop and tasks, and run one export in front of you
  --status    show the processes; exit code 0 only when both run
  --stop      stop, after the exports that are running (Ctrl-C: at once)
  --restart   stop, then start
  --help      this text"
}

# Two starts at the same moment would start everything twice. The lock is not passed on to what we start.
with_lock() {
  check_owner
  private_directories "$RUN_DIR" "$LOG_DIR"
  exec 9>"$RUN_DIR/lock"
  flock -n 9 || die "另一个 start_all.sh 正在运行，请稍候。" "Another start_all.sh is at work. Wait for it."
  "$@"
}

check_owner() {
  local place
  for place in "$ROOT" "$ROOT/data" "$ROOT/logs" "$ROOT/exports" "$ROOT/temp" "$ROOT/.venv"; do
    if [[ -e "$place" && ! -w "$place" ]]; then
      local owner
      owner=$(stat -c %U "$place")
      die "当前用户无法写入 $place（属于 $owner）。请用 $owner 运行，或修改目录的属主。" \
        "This user can't write to $place (it belongs to $owner). Run as $owner, or change the owner."
    fi
  done
}

# ---- start

start() {
  ensure_environment runtime requirements.lock
  read_settings
  manage migrate --noinput --verbosity 0 || die "数据库迁移失败，原因见上。" "The migration failed; the reason stands above."
  collect_static
  if ((SOURCES > 0)); then
    manage datasource sync || warn "config.yaml 中有数据源未能载入，其余照常启动。" \
      "Some sources of config.yaml could not be loaded; everything else starts."
  fi
  if [[ $1 == yes ]]; then show_demo; fi
  start_web
  start_scheduler
  wait_until_ready
  greet
}

restart() {
  stop
  start "$1"
}

# HOST, PORT and the number of sources in config.yaml; a mistake in it is told by the settings themselves.
read_settings() {
  local answer code='from exporter_site.settings import CONFIG; print(CONFIG.web.host, CONFIG.web.port, len(CONFIG.data_sources))'
  answer=$("$PYTHON" -c "$code") || die "请先改正上面的配置错误。" "Correct the configuration first."
  read -r HOST PORT SOURCES <<<"$answer"
}

# Static files of libraries and of our own, gathered anew when one of them has changed.
collect_static() {
  local stamp="$ROOT/staticfiles/.stamp" state
  state=$({
    requirements_digest requirements.txt
    find static ./*/static -type f -printf '%p %s %T@\n' 2>/dev/null | sort || true
  } | sha256sum)
  if [[ -f "$stamp" && $(<"$stamp") == "$state" ]]; then return; fi
  manage collectstatic --noinput --verbosity 0
  printf '%s\n' "$state" >"$stamp"
}

show_demo() {
  step "正在准备演示数据……" "Preparing the demonstration …"
  manage demo || die "演示数据未能载入，原因见上。" "The demonstration could not be loaded; the reason stands above."
  step "正在导出「$DEMO_TASK」……" "Running the export $DEMO_TASK …"
  manage runtask "$DEMO_TASK" || warn "这次导出没有成功，原因见上；网页和调度器照常启动。" \
    "This export did not succeed; the reason stands above. Web and scheduler start all the same."
  echo
}

start_web() {
  local configured="$HOST $PORT"
  if pid_of web >/dev/null; then
    read -r HOST PORT 2>/dev/null <"$RUN_DIR/web.address" || true # where it really listens
    if [[ "$HOST $PORT" != "$configured" ]]; then
      warn "网页仍在原来的地址上运行；要使用新的 web.host、web.port，请运行 ./start_all.sh --restart。" \
        "The web server still listens where it did; for the new web.host and web.port: ./start_all.sh --restart"
    fi
    return
  fi
  check_port
  echo "$configured" >"$RUN_DIR/web.address"
  launch web -m gunicorn -c "$ROOT/deploy/gunicorn.conf.py" exporter_site.wsgi
}

start_scheduler() {
  SCHEDULER_SAID=$(size_of "$LOG_DIR/scheduler.log")
  if pid_of scheduler >/dev/null; then return; fi
  launch scheduler -u "$ROOT/manage.py" runscheduler
}

check_port() {
  local code='
import socket, sys
host, port = sys.argv[1], int(sys.argv[2])
with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        probe.bind((host, port))
        probe.listen()
    except OSError as exc:
        sys.exit(exc.strerror)
'
  local problem
  if ! problem=$("$PYTHON" -c "$code" "$HOST" "$PORT" 2>&1); then
    die "端口 $PORT 无法使用（$HOST：$problem）。请在 config.yaml 中修改 web.port，或先停止占用它的程序。" \
      "Port $PORT can't be used ($HOST: $problem). Change web.port in config.yaml, or stop the program that uses it."
  fi
}

# launch NAME ARGUMENT…: a background process with its own session, PID file and log. It outlives this terminal.
launch() {
  local name=$1
  shift
  # The lock (9) must not stay with it.
  setsid "$PYTHON" "$@" </dev/null >>"$LOG_DIR/$name.log" 2>&1 9>&- &
  echo $! >"$RUN_DIR/$name.pid"
  STARTED+=("$name")
}

# Until the web server answers and the scheduler lives. Says what went wrong otherwise, and ends what this start began.
wait_until_ready() {
  local code='
import http.client, os, sys, time, urllib.request
host, port, pid, limit = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
address = "127.0.0.1" if host in ("0.0.0.0", "") else "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
request = urllib.request.Request(f"http://{address}:{port}/healthz/web", headers={"Host": "localhost"})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
end = time.monotonic() + limit
while time.monotonic() < end:
    try:
        with opener.open(request, timeout=2):
            sys.exit(0)
    except (OSError, http.client.HTTPException):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        sys.exit(1)
    time.sleep(0.1)
sys.exit(1)
'
  local pid limit=$((SECONDS + START_TIMEOUT))
  if ! pid=$(pid_of web) || ! "$PYTHON" -c "$code" "$HOST" "$PORT" "$pid" "$START_TIMEOUT"; then
    give_up web
  fi
  if [[ " ${STARTED[*]} " == *" scheduler "* ]]; then
    # Its first line says that it has reached its loop; or it is the beginning of a traceback.
    while pid_of scheduler >/dev/null && (($(size_of "$LOG_DIR/scheduler.log") == SCHEDULER_SAID && SECONDS < limit)); do
      sleep 0.1
    done
    sleep 0.3
  fi
  pid_of scheduler >/dev/null || give_up scheduler
}

size_of() { stat -c %s "$1" 2>/dev/null || echo 0; }

give_up() {
  local name pid
  last_lines "$LOG_DIR/$1.log"
  for name in "${STARTED[@]}"; do
    if pid=$(pid_of "$name"); then
      kill -TERM "$pid" 2>/dev/null || true
      end_processes 15 "$pid"
    fi
    rm -f "$RUN_DIR/$name.pid"
  done
  die "$1 未能启动或没有应答，日志的最后几行见上（$LOG_DIR/$1.log）。" \
    "$1 did not start or does not answer; the last lines of its log stand above ($LOG_DIR/$1.log)."
}

# Address, user and, the first time, the password: it is stored nowhere, so this is the only time it is shown.
greet() {
  local account username password
  account=$(manage ensureadmin --json) || die "未能创建管理员账号，原因见上。" "The administrator could not be created."
  username=$(json_text username "$account")
  password=$(json_text password "$account")
  good "系统已启动" "The system is running"
  say "  地址：  http://localhost:$PORT/" "  Address:   http://localhost:$PORT/"
  say "  用户：  $username" "  User:      $username"
  if [[ -n "$password" ]]; then
    say "  密码：  $password   （只显示这一次，请立即保存）" "  Password:  $password   (shown this once: keep it)"
  else
    say "  密码：  首次启动时已显示；重设：.venv/bin/python manage.py changepassword $username" \
      "  Password:  was shown at the first start; a new one: .venv/bin/python manage.py changepassword $username"
  fi
  say "  停止：  ./start_all.sh --stop      状态：./start_all.sh --status      日志：logs/" \
    "  Stop:      ./start_all.sh --stop      Status: ./start_all.sh --status      Logs: logs/"
}

# json_text KEY JSON: the text under KEY, empty when it is null. For values that need no escaping.
json_text() { sed -n "s/.*\"$1\": \"\([^\"]*\)\".*/\1/p" <<<"$2"; }

# ---- processes

# command_of PID: its command line, an argument on each line; empty for a zombie or when there is none.
command_of() { tr '\0' '\n' 2>/dev/null <"/proc/$1/cmdline" || true; }

# pid_of NAME: prints the PID of a process that is really ours; fails when it does not run. A PID that was given to
# another program since, or a zombie (whose command line is empty), is none.
pid_of() {
  local pid file="$RUN_DIR/$1.pid"
  [[ -f "$file" ]] || return 1
  pid=$(<"$file")
  [[ "$pid" =~ ^[0-9]+$ && -r "/proc/$pid/cmdline" ]] || return 1
  [[ "$(command_of "$pid")" == *"${MARK[$1]}"* ]] || return 1
  echo "$pid"
}

# children_of PID: its direct children, one line.
children_of() { cat "/proc/$1/task/"*/children 2>/dev/null || true; }

# grandchildren_of PID: the children of its children. The only child of the scheduler is the fork server, so these are
# its exports.
grandchildren_of() {
  local child
  for child in $(children_of "$1"); do children_of "$child"; done
}

# Whether PID is a living process of this installation: another program may have got the number since.
is_ours() { [[ "$(command_of "$1" 2>/dev/null)" == *"$ROOT/"* ]]; }

# ---- stop

stop() {
  local web scheduler
  web=$(pid_of web || true)
  scheduler=$(pid_of scheduler || true)
  if [[ -z "$web$scheduler" ]]; then
    rm -f "$RUN_DIR"/{web,scheduler}.pid
    say "系统没有在运行。" "The system is not running."
    return
  fi
  step "正在停止……" "Stopping …"
  if [[ -n "$web" ]]; then kill -TERM "$web" 2>/dev/null || true; fi
  if [[ -n "$scheduler" ]]; then stop_scheduler "$scheduler"; fi
  if [[ -n "$web" ]]; then end_processes "$WEB_GRACE" "$web"; fi
  rm -f "$RUN_DIR"/{web,scheduler}.pid
  good "已停止" "Stopped"
}

# The scheduler waits for its exports as long as scheduler.drain_timeout says; then it stops them, and they need a
# moment to put their files away. Ctrl-C here is its second signal: at once.
stop_scheduler() {
  local pid=$1 child exports="" now idle=0 told=no
  kill -TERM "$pid" 2>/dev/null || true
  trap 'kill -TERM '"$pid"' 2>/dev/null || true' INT
  while is_ours "$pid" && ((idle < 75)); do # 75 × 0.2 s without an export: it hangs
    now=""
    for child in $(grandchildren_of "$pid"); do
      if is_ours "$child"; then now="$now $child"; fi # not the dead ones that nobody has taken note of
    done
    exports="$exports$now"
    if [[ -n "$now" ]]; then idle=0; else idle=$((idle + 1)); fi
    if [[ -n "$now" && $told == no ]]; then
      told=yes
      say "  等待正在进行的导出完成（按 Ctrl-C 立即停止）……" "  Waiting for the exports that are running (Ctrl-C: stop at once) …"
    fi
    sleep 0.2 || true
  done
  trap - INT
  end_processes 0 "$pid"
  # shellcheck disable=SC2046,SC2086  # a list of numbers
  end_processes 15 $(printf '%s\n' $exports | sort -u)
}

# end_processes SECONDS PID…: wait so long for all of them, then SIGKILL what is left, each with its process group
# (gunicorn's workers).
end_processes() {
  local pid end=$((SECONDS + $1))
  shift
  for pid in "$@"; do
    while is_ours "$pid" && ((SECONDS < end)); do sleep 0.1; done
    if is_ours "$pid"; then
      warn "进程 $pid 没有按时结束，已强制停止。" "Process $pid did not end in time and was killed."
      kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null || true
    fi
  done
}

# ---- status

show_status() {
  local name pid both=0 address=""
  for name in web scheduler; do
    if pid=$(pid_of "$name"); then
      if [[ $name == web ]]; then address="  $(web_address)"; else address=""; fi
      good "$(printf '%-10s' "$name") PID $pid  已运行 $(uptime_of "$pid")  内存 $(memory_of "$pid")MB$address" \
        "$(printf '%-10s' "$name") PID $pid  up $(uptime_of "$pid")  memory $(memory_of "$pid")MB$address"
    else
      warn "$(printf '%-10s' "$name") 没有运行" "$(printf '%-10s' "$name") is not running"
      both=1
    fi
  done
  return "$both"
}

web_address() {
  local port
  if read -r _ port <"$RUN_DIR/web.address"; then printf 'http://localhost:%s/' "$port"; fi
}

# uptime_of PID: hours:minutes:seconds, from the start time in /proc/PID/stat (field 22, in clock ticks since boot).
uptime_of() {
  local stat fields up seconds
  stat=$(<"/proc/$1/stat")
  read -ra fields <<<"${stat##*) }"
  read -r up _ </proc/uptime
  seconds=$((${up%.*} - fields[19] / $(getconf CLK_TCK)))
  printf '%d:%02d:%02d' $((seconds / 3600)) $((seconds % 3600 / 60)) $((seconds % 60))
}

# memory_of PID: megabytes of the process, its children and theirs; shared pages are divided among those that share them.
memory_of() {
  local pid total=0 kilobytes
  for pid in "$1" $(children_of "$1") $(grandchildren_of "$1"); do
    kilobytes=$(sed -n 's/^Pss: *\([0-9]*\) kB/\1/p' "/proc/$pid/smaps_rollup" 2>/dev/null || true)
    total=$((total + ${kilobytes:-0}))
  done
  echo $((total / 1024))
}

main "$@"
