# Last of an install or an upgrade, when just the new version's files are there. One restart, and
# only where the unit runs.
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || :
    systemctl try-restart drained.service || :
fi
