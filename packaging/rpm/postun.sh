# After a removal, or after the old version's files went in an upgrade.
if [ "$1" -eq 0 ]; then
    # The package owns files alone (cargo-generate-rpm cannot list directories); those that are
    # empty now were ours.
    rmdir --ignore-fail-on-non-empty /usr/share/doc/drained/docs/* /usr/share/doc/drained/docs \
        /usr/share/doc/drained/examples/* /usr/share/doc/drained/examples /usr/share/doc/drained \
        /usr/share/licenses/drained /etc/drained 2>/dev/null || :
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload || :
        systemctl reset-failed drained.service 2>/dev/null || :
        journalctl --update-catalog || :
    fi
fi
