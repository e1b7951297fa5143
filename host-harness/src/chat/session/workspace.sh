# The workspace's side of a session: begins its command at most once, and lets terminals follow it.
#
# The host types this into a terminal on the agent (see `BOOTSTRAP` in script.rs), with assignments before it:
#   _id      the session's name: one for each command
#   _mark    begins each record that the host reads; nobody else knows it
#   _end     begins the line that follows the command's output, with the exit code and a full stop
#   _begin   1: the command follows; begin it unless it has begun. Else: only follow what has begun
#   _from    the offset in the command's output from which on the host wants it
#   _dir     where to run the command, or nothing
#   _grace   how long each signal may take that ends the command, in tenths of a second
#   _command, _input   the length and POSIX checksum of the command, and of its input (empty: it has none)
#
# A session is a private folder, so it outlives the terminal, the connection and the agent's process:
#   begun/    made by whoever may begin the command, or may keep it from beginning: whoever makes it is the only one
#   runner    the process that waits for the command and keeps its output
#   group     the command's process group
#   out.N     its output, both streams in one, from offset N on
#   exit      its exit code
#   viewer    the terminal that follows it; the others stop
#   lost      some output could not be kept: the disk was full
# When everything was fetched, an empty file _id.done is all that stays: what was typed long ago, and was on its way all the
# time, begins nothing.
#
# What it tells are records, each a line that begins with _mark:
#   b        the command has begun, now or before
#   cN M     its output from offset N on follows; M bytes before it are left out
#   xN       the runner has ended, and everything is told; N is the exit code if it was noted
#   n        nothing is known of the session
#   t        another terminal follows the command now
#   rTEXT    refused, and why; rgarbled: what arrived is not what was sent
#   pN       the answer to the host's pN: this terminal lives
#   kN       the command was ended; 1: something of it is left
#   v        the command has not begun, and never will
# And these lines are what the host types: pN; e, to end the command; d, when it has all that it wants.
#
# It has to run in any POSIX shell, and needs of the workspace: mkdir, rm, cat, dd, head, tail, wc, sleep. Where they
# exist it uses stty (else the terminal echoes what is typed, which the host passes over), setsid (else the command keeps
# the terminal), cksum (else only lengths are compared), find (else old folders stay) and bash (else sh runs the command).
# All its variables begin with _, since assigning to a variable that the user exports would change the command's.

unset IFS
# Words of variables are split in all shells but one.
[ -z "${ZSH_VERSION-}" ] || emulate sh

# To mksh printf is a program, whose arguments everybody sees; its print decodes as well.
case ${KSH_VERSION-} in
  *MIRBSD*) _decode() { print -n -- "$1"; } ;;
  *) _decode() { printf %b "$1"; } ;;
esac

# One record for the host.
_say() { printf '\n%s%s\n' "$_mark" "$1"; }

# How long a file is: _size. False: it is gone.
_measure() { _size=$({ wc -c <"$1"; } 2>/dev/null) && _size=$((_size)); }

# When a process began, where the system tells: _born. A number alone may be another process's by now.
_identify() {
  _born=
  { read -r _stat <"/proc/$1/stat"; } 2>/dev/null || return 0
  # What follows the name, from the state on.
  set -- ${_stat##*\) }
  _born=${20}
}

# Whether the process of a note lives: its number, and when it began.
_lives() {
  kill -s 0 "$1" 2>/dev/null || return 1
  _identify "$1"
  [ "$_born" = "${2-}" ]
}

# What the host types next, decoded: lines that begin with + up to one that is a dot. False: it was cut.
_receive() {
  while IFS= read -r _line; do
    case $_line in
      .) return 0 ;;
      +*) _decode "${_line#+}" ;;
    esac
  done
  return 1
}

# Whether a file arrived as it was sent.
_whole() {
  _file=$1 _sum=$2
  # Some name the file, or end with a blank; where there is no cksum, there is nothing.
  set -- $(cksum <"$_file" 2>/dev/null)
  if [ $# -ge 2 ]; then
    [ "$1 $2" = "$_sum" ]
  else
    _measure "$_file" && [ "$_size" -eq "${_sum#* }" ]
  fi
}

# --- the runner -----------------------------------------------------------------------------------------------------

# Its standard input, kept in segments of some 4 MiB. Beyond the first one the last 8 MiB stay, however much it is: a
# command that never stops talking fills no disk, and is never held up.
_keep() {
  _at=0 _before=0 _segments=
  while dd bs=65536 count=64 2>/dev/null >>"$_folder/out.$_at" && _measure "$_folder/out.$_at"; do
    # Nothing more: the end.
    [ "$_size" -gt "$_before" ] || return 0
    _before=$_size
    [ "$_size" -ge 4194304 ] || continue
    [ "$_at" -eq 0 ] || _segments="$_segments $_at"
    _at=$((_at + _size)) _before=0
    set -- $_segments
    while [ $# -gt 0 ] && [ "$1" -lt $((_at - 8388608)) ]; do
      rm -f "$_folder/out.$1"
      shift
    done
    _segments=$*
  done 2>/dev/null
  # Everything was fetched and removed, and what the command has left in the background may go on talking; or the disk is
  # full, and the command goes on all the same.
  mkdir "$_folder/lost" 2>/dev/null
  exec cat >/dev/null
}

# Begins the command if nobody has, and waits for its end.
_run() {
  if ! mkdir "$_folder/begun" 2>/dev/null || [ -e "$_folder.done" ]; then
    rm -rf "$_stage"
    exit
  fi
  _identify $$
  echo "$$ $_born" >"$_folder/runner"
  {
    # What the shell itself says of how the command ended is no output of the command.
    $_session /bin/sh "$_stage/program" lead "$_stage" "$_umask" 2>&1
    _code=$?
    printf '\n%s%d.\n' "$_end" "$_code"
    echo "$_code" >"$_folder/exit"
  } 2>/dev/null </dev/null | _keep
}

# Becomes the command. No process has it among its arguments, and no file keeps it any longer than its beginning.
_lead() {
  _identify $$
  if [ -n "$_session" ]; then echo "$$ $_born"; else cat "$_folder/runner"; fi >"$_folder/group"
  umask "$_umask"
  # Whoever would ask is told that there is nobody to answer.
  : "${GIT_TERMINAL_PROMPT=0}" "${DEBIAN_FRONTEND=noninteractive}"
  export GIT_TERMINAL_PROMPT DEBIAN_FRONTEND
  case $_dir in
    '') ;;
    '~') cd ;;
    '~/'*) cd -- "$HOME/${_dir#'~/'}" ;;
    -*) cd -- "./$_dir" ;;
    *) cd -- "$_dir" ;;
  esac || exit
  if [ -n "$_input" ]; then exec <"$_stage/input"; else exec </dev/null; fi
  _shell=$(command -v bash) || _shell=/bin/sh
  {
    rm -rf "$_stage"
    exec "$_shell" -c 'set -- "$(cat <&9)"; exec 9<&-; eval "shift;$1"' "${_shell##*/}"
  } 9<"$_stage/command"
}

# --- the terminal ---------------------------------------------------------------------------------------------------

# Where sessions are kept: the first place, or else the second. Others may write to the second one, so there the folder
# has to be ours.
_first() { _root=${XDG_STATE_HOME:-$HOME/.local/state}/workspace-recovery-sessions; }
_second() { _root=${TMPDIR:-/tmp}/workspace-recovery-sessions-$(id -u); }

# Finds the session's folder, wherever it was made: _folder. False: there is none.
_find() {
  _first
  for _folder in "$_root/$_id" "${TMPDIR:-/tmp}"/workspace-recovery-sessions-*/"$_id"; do
    _root=${_folder%/*}
    [ -d "$_folder" ] && [ -O "$_folder" ] && return 0
  done
  return 1
}

# Finds or makes it, with a folder for what this terminal brings: _stage. False: there is no place for it.
_make() {
  # One that there is has the last word on whether the command has begun, wherever it is.
  if _find; then
    _stage=$_folder/stage.$$
    mkdir "$_stage" 2>/dev/null
    return
  fi
  for _place in _first _second; do
    $_place
    _folder=$_root/$_id _stage=$_root/$_id/stage.$$
    [ -d "$_root" ] || mkdir -p "$_root" 2>/dev/null
    [ -O "$_root" ] && [ ! -L "$_root" ] || continue
    mkdir "$_folder" "$_stage" 2>/dev/null
    # Not with `:`, which ends the shell if it cannot.
    { true >"$_stage/command"; } 2>/dev/null && return
    rm -rf "$_folder" 2>/dev/null
  done
  return 1
}

# Takes the command, and lets a runner begin it.
_begin() {
  # What was cut is not kept.
  trap 'rm -rf "$_stage"; exit' HUP TERM
  _receive >"$_stage/command" && { [ -z "$_input" ] || _receive >"$_stage/input"; } || {
    rm -rf "$_stage"
    exit
  }
  if ! _whole "$_stage/command" "$_command" || { [ -n "$_input" ] && ! _whole "$_stage/input" "$_input"; }; then
    rm -rf "$_stage"
    _say rgarbled
    exit
  fi
  printf '%s\n' "$_program" >"$_stage/program"
  trap - HUP TERM
  # As a job of its own, so that the command is not born deaf to SIGINT.
  set -m 2>/dev/null
  if [ -n "$_session" ]; then
    setsid /bin/sh "$_stage/program" run "$_stage" "$_umask" </dev/null >/dev/null 2>&1 &
  else
    (
      trap '' HUP
      exec /bin/sh "$_stage/program" run "$_stage" "$_umask" </dev/null >/dev/null 2>&1
    ) &
  fi
  set +m
}

# Waits until a note is there: _note has what it says. False: it does not come.
_await() {
  _tries=0
  until [ -s "$1" ] && read -r _note <"$1"; do
    [ $_tries -lt 400 ] || return 1
    _tries=$((_tries + 1))
    sleep 0.005 2>/dev/null || sleep 1
  done
}

# Prints the output as it comes, until the runner has ended.
_follow() {
  _idle=0 _dying= _skipped=0
  _await "$_folder/runner" || {
    _say n
    return
  }
  _runner=$_note
  _say b
  while read -r _viewer <"$_folder/viewer" && [ "$_viewer" = "$_me" ]; do
    # The segment that has _at, and the first one behind it.
    _segment= _next=
    for _file in "$_folder"/out.*; do
      _start=${_file##*.}
      [ -e "$_file" ] || continue
      if [ "$_start" -gt "$_at" ]; then
        if [ -z "$_next" ] || [ "$_start" -lt "$_next" ]; then _next=$_start; fi
      elif [ -z "$_segment" ] || [ "$_start" -gt "$_segment" ]; then
        _segment=$_start
      fi
    done
    _until=$_at
    if [ -n "$_segment" ] && [ -s "$_folder/out.$_segment" ]; then
      _measure "$_folder/out.$_segment" || continue
      _until=$((_segment + _size))
    fi
    _size=$((_until - _at))
    if [ "$_size" -gt 0 ]; then
      if [ "$_size" -gt 262144 ]; then
        # Far behind: what lies in the middle of so much output is left out anyway.
        if [ "$_size" -gt 1048576 ] && [ "$_at" -ge 65536 ]; then
          _skipped=$((_skipped + _size - 65536)) _at=$((_until - 65536))
        fi
        _size=65536
      fi
      # If the segment is gone by now, nothing is said of it.
      {
        _say "c$_at $_skipped" || exit
        tail -c "+$((_at - _segment + 1))" | head -c "$_size"
      } 2>/dev/null <"$_folder/out.$_segment" || continue
      _skipped=0
      _at=$((_at + _size)) _idle=0 _dying=
    elif [ -n "$_next" ]; then
      _skipped=$((_skipped + _next - _at)) _at=$_next
    elif [ -n "$_dying" ]; then
      [ ! -e "$_folder/lost" ] || _say "c$_at 1"
      _code=
      [ -e "$_folder/exit" ] && read -r _code <"$_folder/exit"
      _say "x$_code"
      return
    elif ! _lives $_runner; then
      # Once more, for what came last.
      _dying=1
    else
      # Most commands are short.
      _idle=$((_idle + 1))
      if [ $_idle -lt 16 ]; then _pause=0.005; elif [ $_idle -lt 32 ]; then _pause=0.05; else _pause=0.2; fi
      sleep $_pause 2>/dev/null || sleep 1
    fi
  done
  # Another terminal follows it now; or its notes are gone, and nothing more can be said.
  if [ -e "$_folder/viewer" ]; then _say t; else _say n; fi
}

# Whether anything but dead processes is left of the command's group.
_is_left() {
  kill -s 0 -- "-$_group" 2>/dev/null || return 1
  [ -e /proc/self/stat ] || return 0
  for _file in /proc/[0-9]*/stat; do
    read -r _stat 2>/dev/null <"$_file" || continue
    # What follows the name: state, parent, group.
    set -- ${_stat##*\) }
    [ "$3" = "$_group" ] && [ "$1" != Z ] && return 0
  done
  return 1
}

# Keeps the command from beginning, or ends it and all that it left in its process group, ever less politely; says
# whether anything is left.
_finish() {
  trap '' HUP
  if mkdir "$_folder/begun" 2>/dev/null; then
    _say v
    return
  fi
  _await "$_folder/group" || {
    _say k1
    return
  }
  set -- $_note
  _group=$1
  # Its number may be another group's by now.
  _identify "$_group"
  if [ -n "$_born" ] && [ "$_born" != "${2-}" ]; then
    _say k0
    return
  fi
  for _signal in INT TERM KILL; do
    kill -s $_signal -- "-$_group" 2>/dev/null
    _tries=0
    while _is_left; do
      [ $_tries -lt "$_grace" ] || continue 2
      _tries=$((_tries + 1))
      sleep 0.1 2>/dev/null || { sleep 1; _tries=$((_tries + 9)); }
    done
    _say k0
    return
  done
  _say k1
}

_serve() {
  for _tool in mkdir rm cat dd head tail wc sleep; do
    command -v $_tool >/dev/null || { _say "rit has no $_tool"; exit; }
  done
  if [ -n "$_begin" ]; then
    _make || {
      _say "rneither ${XDG_STATE_HOME:-$HOME/.local/state} nor ${TMPDIR:-/tmp} can be written"
      exit
    }
    _begin
  else
    _find || {
      _say n
      exit
    }
  fi
  _me=$$ _at=$_from
  echo "$_me" >"$_folder/viewer"
  _follow &
  while IFS= read -r _line; do
    case $_line in
      p*) _say "$_line" ;;
      e) _finish & ;;
      d)
        { true >"$_folder.done"; } 2>/dev/null
        # The runner may write its last note meanwhile.
        rm -rf "$_folder" 2>/dev/null || { sleep 1 && rm -rf "$_folder"; }
        find "$_root" -mindepth 1 -maxdepth 1 -mtime +1 -exec rm -rf {} + >/dev/null 2>&1
        exit
        ;;
    esac
  done
}

_session=
if command -v setsid >/dev/null; then _session=setsid; fi
_stage=${2-} _umask=${3-}
_folder=${_stage%/*}
case ${1-} in
  run) _run ;;
  lead) _lead ;;
  *)
    _umask=$(umask)
    umask 077
    _serve
    ;;
esac
