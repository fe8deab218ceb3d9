# After a removal, or after the old version's files went in an upgrade.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl reset-failed drained.service 2>/dev/null || :
    journalctl --update-catalog || :
fi
