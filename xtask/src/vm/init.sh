#!/bin/sh
# The first process of a virtual machine of `cargo xtask vm`: mounts what a Linux has, runs /job, tells how
# that ended on the second serial line, and turns the machine off.

export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm /run /report
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
ln -s /proc/self/fd /dev/fd
ip link set lo up
# What filesystems of the tests need and no mount asks for.
modprobe loop

# In a session of its own, for the first process has none, and shells complain.
setsid -w sh /job </dev/null
status=$?

stty -F /dev/ttyS1 raw
{
    for file in /report/*; do
        [ -f "$file" ] || continue
        echo "== ${file##*/}"
        cat "$file"
    done
    echo "== status"
    echo "$status"
    echo "== end"
} >/dev/ttyS1
dmesg -n 1
echo o >/proc/sysrq-trigger
# It is turned off by a kernel thread, and the first process must not end before that.
read -r _ <>/dev/ttyS1
