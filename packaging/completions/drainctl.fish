# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_drainctl_global_optspecs
    string join \n socket= json h/help V/version
end

function __fish_drainctl_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_drainctl_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_drainctl_using_subcommand
    set -l cmd (__fish_drainctl_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c drainctl -n "__fish_drainctl_needs_command" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_needs_command" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c drainctl -n "__fish_drainctl_needs_command" -s V -l version -d 'Print version'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "status" -d 'Show the daemon, its proxies and their connections'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "connections" -d 'List the connections'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "top" -d 'Show all of it on the whole terminal, each second anew: ? tells the keys'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "drain" -d 'Take an upstream out of service: no new connection goes there, those that it has are drained'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "resume" -d 'Put upstreams back into service: clients go there as soon as a connect succeeds'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "hold" -d 'Have new clients of a proxy wait'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "adopt" -d 'Have systemd drain a service behind a proxy whenever it stops or restarts it'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "reload" -d 'Read the configuration anew: what is wrong with it is told, and then all stays as it was'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c drainctl -n "__fish_drainctl_using_subcommand status" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand status" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand status" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l upstream -d 'Only those to this upstream, as the configuration writes it' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l client -d 'Only those of this client: an address, with or without a port, a network (192.0.2.0/24), or unix' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l state -d 'Only those in this state: held, connecting, sending-to-upstream, sending-to-client, waiting-for-upstream, half-closed, active, quiet, closing' -r -f -a "held\t''
connecting\t''
sending-to-upstream\t''
sending-to-client\t''
waiting-for-upstream\t''
half-closed\t''
active\t''
quiet\t''
closing\t''"
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l sort -d 'In this order: the oldest first, the longest silence, the most bytes, or by address' -r -f -a "age\t''
idle\t''
bytes\t''
client\t''
upstream\t''"
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l limit -d 'Not more than so many' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand connections" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand top" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand top" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand top" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand drain" -l upstream -d 'One of its upstreams, as the configuration writes it; without it all' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand drain" -l timeout -d 'Cut what is left after this time; default: the deadline of the proxy\'s drain' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand drain" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand drain" -l wait -d 'Wait until the last connection has ended'
complete -c drainctl -n "__fish_drainctl_using_subcommand drain" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand drain" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand resume" -l upstream -d 'One of its upstreams, as the configuration writes it; without it all, and a hold ends' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand resume" -l timeout -d 'With --wait: give up after this time' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand resume" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand resume" -l wait -d 'Wait until they take connections'
complete -c drainctl -n "__fish_drainctl_using_subcommand resume" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand resume" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand hold" -l timeout -d 'End the hold by itself after this time; without it: by resume' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand hold" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand hold" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand hold" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l proxy -d 'The proxy, by its name in the configuration' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l upstream -d 'The service\'s address, as the proxy\'s configuration writes it' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l timeout -d 'Cut what is left of its connections after this time' -r
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l root -d 'Write below this directory and leave systemd alone' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l dry-run -d 'Only show what would be written'
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l undo -d 'Take away what was written'
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l yes -d 'Do not ask'
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand adopt" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand reload" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand reload" -l json -d 'Print the answer as JSON: one line, for connections a line each'
complete -c drainctl -n "__fish_drainctl_using_subcommand reload" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "status" -d 'Show the daemon, its proxies and their connections'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "connections" -d 'List the connections'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "top" -d 'Show all of it on the whole terminal, each second anew: ? tells the keys'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "drain" -d 'Take an upstream out of service: no new connection goes there, those that it has are drained'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "resume" -d 'Put upstreams back into service: clients go there as soon as a connect succeeds'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "hold" -d 'Have new clients of a proxy wait'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "adopt" -d 'Have systemd drain a service behind a proxy whenever it stops or restarts it'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "reload" -d 'Read the configuration anew: what is wrong with it is told, and then all stays as it was'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status connections top drain resume hold adopt reload help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
