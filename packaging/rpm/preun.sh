# Before a removal, not before the old version goes in an upgrade: stop, which drains.
if [ "$1" -eq 0 ]; then
    systemctl --no-reload disable --now drained.service || :
fi
