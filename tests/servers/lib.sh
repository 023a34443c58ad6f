# Shared by every script in this folder. Source it: . "$(dirname "$0")/lib.sh"
#
# Each script NAME runs one real server without a container engine:
#   NAME fetch    download and build what is missing (idempotent, into $SERVERS_HOME/NAME)
#   NAME start    start on 127.0.0.1 with data in $DATA_DIR, return once it answers (fails after $WAIT_S)
#   NAME stop     end the process that start made, by its recorded pid
#   NAME status   exit 0 when it answers
#   NAME url      print how a client reaches it
# Variables: PORT (and others that the script names), DATA_DIR, SERVERS_HOME, WAIT_S.
set -euo pipefail

NAME=$(basename "$0")
SERVERS_HOME=${SERVERS_HOME:-$HOME/.cache/primalcore-servers}
HOME_DIR=$SERVERS_HOME/$NAME
DATA_DIR=${DATA_DIR:-${TMPDIR:-/tmp}/primalcore-servers/$NAME}
WAIT_S=${WAIT_S:-240}
PID_FILE=$DATA_DIR/pid
LOG_FILE=$DATA_DIR/log

die() { echo "$NAME: $*" >&2; exit 1; }

# apt_get PACKAGE...: install what is missing of Debian's packages, without starting services.
apt_get() {
  local missing=()
  for p in "$@"; do dpkg -s "$p" >/dev/null 2>&1 || missing+=("$p"); done
  [ ${#missing[@]} -eq 0 ] && return
  echo "$NAME: installing ${missing[*]} from Debian's packages" >&2
  local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
  printf '#!/bin/sh\nexit 101\n' | $sudo tee /usr/sbin/policy-rc.d >/dev/null && $sudo chmod +x /usr/sbin/policy-rc.d
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# maven_jars DIR GROUP:ARTIFACT:VERSION...: the artifacts and all they need at run time, as DIR/*.jar.
# MAVEN_EXCLUDE="GROUP:ARTIFACT ..." leaves dependencies out (those that are not on Maven Central, for instance).
maven_jars() {
  local dir=$1; shift
  [ -e "$dir/.complete" ] && return
  mkdir -p "$dir"
  echo "$NAME: fetching $* from Maven Central into $dir" >&2
  local pom without= a e g i v; pom=$(mktemp -d)
  for e in ${MAVEN_EXCLUDE:-}; do without+="<exclusion><groupId>${e%:*}</groupId><artifactId>${e#*:}</artifactId></exclusion>"; done
  { echo '<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId><version>1</version><dependencies>'
    for a in "$@"; do IFS=: read -r g i v <<<"$a"
      echo "<dependency><groupId>$g</groupId><artifactId>$i</artifactId><version>$v</version><exclusions>$without</exclusions></dependency>"; done
    echo '</dependencies></project>'; } >"$pom/pom.xml"
  mvn -q -B -ntp -Dstyle.color=never -f "$pom/pom.xml" dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$dir" >&2
  rm -rf "$pom"; touch "$dir/.complete"
}

# npm_package DIR NAME@VERSION: its files under DIR/node_modules/NAME; install scripts do not run.
npm_package() {
  [ -e "$1/.complete" ] && return
  mkdir -p "$1"
  echo "$NAME: fetching $2 from npm into $1" >&2
  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$1" "$2" >/dev/null
  touch "$1/.complete"
}

# pip_venv DIR REQUIREMENT...: a virtual environment with them.
pip_venv() {
  local dir=$1; shift
  [ -e "$dir/.complete" ] && return
  echo "$NAME: fetching $* from PyPI into $dir" >&2
  rm -rf "$dir"; mkdir -p "$(dirname "$dir")"; python3 -m venv "$dir"
  "$dir/bin/pip" -q --disable-pip-version-check install "$@"
  touch "$dir/.complete"
}

# as_user USER: the words that run a command as USER when root (for servers that refuse root), else nothing. They exec, so pids hold.
as_user() { [ "$(id -u)" != 0 ] || echo "setpriv --reuid=$1 --regid=$1 --init-groups"; }

# own USER DIR...: make them, USER's when root.
own() {
  local user=$1; shift
  mkdir -p "$@"
  [ "$(id -u)" = 0 ] || return 0
  chown "$user:$user" "$@"
  $(as_user "$user") test -x "$1" || die "user $user cannot reach $1 (a parent folder is closed to others, and this server refuses root)"
}

# go_build BINARY MODULE@VERSION PACKAGE [OLD[@V]=NEW@V...]: build PACKAGE in a wrapper module that takes over the module's
# own go.sum and replace lines (all but those to a local folder), which `go install` refuses. PACKAGE "." is a main.go on stdin.
go_build() {
  local out=$1 module=$2 package=$3; shift 3
  [ -x "$out" ] && return
  command -v go >/dev/null || die "needs go"
  echo "$NAME: building $package of $module" >&2
  local dir; dir=$(mktemp -d)
  [ "$package" != . ] || cat >"$dir/main.go"
  (
    cd "$dir"
    go mod init wrapper
    go mod download "$module" || exit 1
    src=$(go list -m -f '{{.Dir}}' "$module")
    cp "$src/go.sum" . && chmod u+w go.sum
    awk '{ sub("//.*", "") } /^replace *\(/ { in_block = 1; next } /^\)/ { in_block = 0 }
         in_block || sub(/^replace +/, "") { if ($2 == "=>") { old = $1; to = $3; v = $4 } else { old = $1 "@" $2; to = $4; v = $5 }
           if (to != "" && to !~ /^[.\/]/) print old "=" to "@" v }' "$src/go.mod" >replaces
    for r in $(cat replaces) "$@"; do go mod edit -replace "$r"; done
    go get "$module" || exit 1
    CGO_ENABLED=0 GOFLAGS=-mod=mod go build -trimpath -ldflags "-s -w ${GO_LDFLAGS:-}" -o "$dir/out" "$package"
  ) >"$dir/log" 2>&1 || { tail -30 "$dir/log" >&2; rm -rf "$dir"; die "go build of $package failed"; }
  mkdir -p "$(dirname "$out")"; mv "$dir/out" "$out"; rm -rf "$dir"
}

# background COMMAND...: start it detached, its output in $LOG_FILE, its pid in $PID_FILE.
background() {
  mkdir -p "$DATA_DIR"
  setsid "$@" >>"$LOG_FILE" 2>&1 </dev/null &
  echo $! >"$PID_FILE"
}

# wait_until COMMAND...: until it succeeds; a dead process or $WAIT_S seconds end the wait with the log's tail.
wait_until() {
  local end=$((SECONDS + WAIT_S))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] && { [ ! -e "$PID_FILE" ] || kill -0 "$(cat "$PID_FILE")" 2>/dev/null; } ||
      { tail -30 "$LOG_FILE" >&2; die "did not come up"; }
    sleep 0.1
  done
}

stop_pid() {
  [ -e "$PID_FILE" ] || return 0
  local pid; pid=$(cat "$PID_FILE")
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
  rm -f "$PID_FILE"
}

# The script defines fetch, start, status and url (and stop where ending one pid is not enough), then calls: main "$@"
stop() { stop_pid; }
main() {
  case "${1:-}" in
    fetch|stop|status|url) "$1" ;;
    start) fetch; mkdir -p "$DATA_DIR"; status >/dev/null 2>&1 || start; url ;;
    *) die "usage: $NAME fetch|start|stop|status|url" ;;
  esac
}
