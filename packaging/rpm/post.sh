# After an install or an upgrade. Distributions whose rpm makes users and updates catalogs by
# itself find nothing left to do here.
systemd-sysusers drained.conf || :
journalctl --update-catalog || :
if [ "$1" -eq 1 ]; then
    # As %systemd_post: the distribution's presets decide whether the unit is enabled.
    systemctl --no-reload preset drained.service || :
fi
