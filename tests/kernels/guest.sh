#!/bin/busybox sh
# The first program on a machine's disk: mounts what a Linux system has, runs the cases, switches the machine off.
# The scenario's name is on the kernel's command line.
set -eu
export PATH=/bin:/sbin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p /dev/shm
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
hostname guest
ip link set lo up
scenario=$(sed -n 's/.*scenario=\([^ ]*\).*/\1/p' /proc/cmdline)
stty -F /dev/ttyS1 raw -echo
# A failure is seen by the reports that are missing.
/kernels __guest "$scenario" > /dev/ttyS1 || echo "the cases ended with status $?"
poweroff -f
