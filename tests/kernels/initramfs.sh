#!/bin/busybox sh
# The first program of a machine: loads the drivers of its disk and hands over to what is on it. When it
# fails it ends, the kernel panics, and qemu, started with -no-reboot, ends as well.
set -eu
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module.ko"; done < /modules/order
# The disk is there a moment after its driver.
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ -b /dev/vda ] && break
    sleep 0.2
done
mount -t ext4 /dev/vda /root
cp -a /lib/modules /root/lib/
cp /bin/busybox /root/bin/busybox
mount --move /dev /root/dev
umount /proc
exec switch_root /root /bin/busybox sh /init
