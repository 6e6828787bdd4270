#!/bin/sh
# Install TVM's RPC server beside this script and start it: a @TARGET@ board for a tracker.
set -euf
usage() {
    cat <<'END'
usage: ./install.sh --tracker HOST:PORT [--boot [--user NAME]] [--host ADDRESS] [--port PORT]
                    [--address ADDRESS]
  --tracker  where to register, as @TARGET@
  --boot     start now and at every boot (systemd), instead of here until Ctrl-C
  --user     with --boot: the user whom the server runs as, by default the one who runs this;
             never root: whoever reaches the server runs any code as this user
  --host     address to listen on; by default 127.0.0.1, which ssh tunnels reach; 0.0.0.0 opens
             the board to its whole network: whoever reaches it runs any code
  --port     port to listen on, by default @BOARD_PORT@
  --address  address that the tracker gives to clients, where it is not the one it sees
END
}
fail() {
    echo "error: $*" >&2
    exit 1
}
here=$(cd "$(dirname "$0")" && pwd)
boot= user= tracker= host=127.0.0.1 port=@BOARD_PORT@ address=
while [ $# -gt 0 ]; do
    case $1 in
        --boot) boot=yes; shift; continue ;;
        -h | --help) usage; exit 0 ;;
    esac
    [ $# -ge 2 ] || { usage >&2; exit 2; }
    case $2 in
        *[!][A-Za-z0-9.:_-]*) fail "$1 '$2' is no address and no port" ;;
    esac
    case $1 in
        --tracker) tracker=$2 ;;
        --user) user=$2 ;;
        --host) host=$2 ;;
        --port) port=$2 ;;
        --address) address="--address $2" ;;
        *) usage >&2; exit 2 ;;
    esac
    shift 2
done
[ -n "$tracker" ] || { usage >&2; exit 2; }
if [ -n "$boot" ]; then
    user=${user:-$(id -un)}
    id "$user" >/dev/null 2>&1 || fail "there is no user $user"
    [ "$(id -u "$user")" != 0 ] || fail "the server must not run as root, for whoever reaches it" \
        "runs any code: give an ordinary user with --user NAME"
elif [ -n "$user" ]; then
    fail "--user goes with --boot; without it the server runs as who starts it"
fi

machine=$(uname -m)
[ "$machine" = @MACHINE@ ] || fail "this kit is for @MACHINE@ and this board is $machine;" \
    "on the host: python -m mnv2_tvm.device kit --target NAME -o kit/"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null ||
    fail "Python 3.10 or newer is needed: sudo apt install python3 python3-venv"
if [ ! -x "$here/venv/bin/pip" ]; then
    python3 -m venv "$here/venv" || fail "no venv could be made: sudo apt install python3-venv"
fi
"$here/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary=:all: \
    --require-hashes -r "$here/requirements.txt" || fail "pip could not install TVM; its lines above say why"

options="--tracker $tracker --key @TARGET@ --host $host --port $port $address"
if [ -z "$boot" ]; then
    cd "$here"
    # The options hold no spaces: each was checked.
    exec venv/bin/python -m board.serve $options
fi
command -v systemctl >/dev/null || fail "--boot needs systemd; without it, start this at boot:" \
    "cd $here && venv/bin/python -m board.serve $options"
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
# The unit is root's: who could write it would be root at the next boot.
$sudo install -m 644 /dev/stdin /etc/systemd/system/mnv2-board.service <<END
[Unit]
Description=TVM RPC server, @TARGET@
Wants=network-online.target
After=network-online.target

[Service]
User=$user
NoNewPrivileges=yes
WorkingDirectory=$here
ExecStart="$here/venv/bin/python" -m board.serve $options
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
END
$sudo systemctl daemon-reload
$sudo systemctl enable mnv2-board.service
$sudo systemctl restart mnv2-board.service
echo "started, now and at every boot; its log: journalctl -u mnv2-board -f"
