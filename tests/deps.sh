#!/bin/bash
# Installs Debian's packages that are missing, where there is apt-get and a network; else says which
# are missing and goes on: a test without its tool skips and says so. PROGRAM:PACKAGE where the two
# have different names.
set -euo pipefail

missing=()
for package in "$@"; do
    case $package in
        busybox-static) [ -x /bin/busybox ] || [ -x /usr/bin/busybox ] || missing+=("$package") ;;
        *:*) command -v "${package%%:*}" >/dev/null || [ -x "/usr/sbin/${package%%:*}" ] || missing+=("${package#*:}") ;;
        *) command -v "$package" >/dev/null || [ -x "/usr/sbin/$package" ] || missing+=("$package") ;;
    esac
done
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Not installed: ${missing[*]}. No apt-get here to install them with." >&2
    exit 0
fi
echo "Installing what the tests use of Debian: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null; }
if ! install 2>/dev/null; then
    apt-get update -q >/dev/null || true
    install || echo "Could not install ${missing[*]}: tests that use them will skip." >&2
fi
