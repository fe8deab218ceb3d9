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
complete -c drainctl -n "__fish_drainctl_needs_command" -l json -d 'Print the answer as one line of JSON'
complete -c drainctl -n "__fish_drainctl_needs_command" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_needs_command" -s V -l version -d 'Print version'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "status" -d 'Show the daemon, its proxies and their connections'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "reload" -d 'Read the configuration anew: what is wrong with it is told, and then all stays as it was'
complete -c drainctl -n "__fish_drainctl_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c drainctl -n "__fish_drainctl_using_subcommand status" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand status" -l json -d 'Print the answer as one line of JSON'
complete -c drainctl -n "__fish_drainctl_using_subcommand status" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand reload" -l socket -d 'The control socket of the daemon' -r -F
complete -c drainctl -n "__fish_drainctl_using_subcommand reload" -l json -d 'Print the answer as one line of JSON'
complete -c drainctl -n "__fish_drainctl_using_subcommand reload" -s h -l help -d 'Print help'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status reload help" -f -a "status" -d 'Show the daemon, its proxies and their connections'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status reload help" -f -a "reload" -d 'Read the configuration anew: what is wrong with it is told, and then all stays as it was'
complete -c drainctl -n "__fish_drainctl_using_subcommand help; and not __fish_seen_subcommand_from status reload help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
