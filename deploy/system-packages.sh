#!/bin/sh
# Makes sure that system programs are there: installs what is missing where it may (root and apt), and
# otherwise says in one sentence what to install. Usage: system-packages.sh PACKAGE...
set -eu

program_of() {
    case "$1" in
        mosquitto-clients) echo mosquitto_sub ;;
        prometheus) echo promtool ;;
        systemd-container) echo systemd-nspawn ;;
        softhsm2) echo softhsm2-util ;;
        *) echo "$1" ;;
    esac
}

PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin"
missing=""
for package in "$@"; do
    # systemd is for Linux alone.
    [ "$package" = systemd-container ] && [ "$(uname -s)" != Linux ] && continue
    command -v "$(program_of "$package")" >/dev/null 2>&1 || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "Installing$missing ..."
    apt-get update -qq
    # A service that starts by itself would take the port: edgeops runs its own broker.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "$policy"
        chmod +x "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
    exit 0
fi

if command -v apt-get >/dev/null 2>&1; then
    how="sudo apt-get install$missing"
elif command -v dnf >/dev/null 2>&1; then
    how="sudo dnf install$missing"
elif command -v brew >/dev/null 2>&1; then
    how="brew install$missing"
else
    how="your package manager"
fi
echo "Missing:$missing. Install with: $how" >&2
exit 1
