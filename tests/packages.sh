#!/usr/bin/env bash
# System packages the tests need: a browser, an MQTT broker, a container engine and what makes its first image.  Installed where that is possible (Debian, as root), named where it is not.
set -euo pipefail
missing=()
[ -x /usr/bin/chromium ] || command -v chromium >/dev/null || missing+=(chromium)
command -v git >/dev/null || missing+=(git)
command -v g++ >/dev/null || missing+=(g++ libc6-dev)
if [ "$(uname)" = Linux ]; then
    PATH=$PATH:/usr/sbin
    command -v dockerd >/dev/null || missing+=(docker.io iptables)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v mosquitto >/dev/null || missing+=(mosquitto mosquitto-clients)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v debootstrap >/dev/null || missing+=(debootstrap)
    command -v docker-registry >/dev/null || missing+=(docker-registry)
    command -v tclsh >/dev/null || missing+=(tcl)
    command -v sshd >/dev/null || missing+=(openssh-server openssh-client)
fi
[ ${#missing[@]} -eq 0 ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
    echo "The tests need: ${missing[*]}" >&2
    exit 1
fi
