# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_drained_global_optspecs
    string join \n config= log-level= listen= upstream= protocol= deadline= h/help V/version
end

function __fish_drained_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_drained_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_drained_using_subcommand
    set -l cmd (__fish_drained_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c drained -n "__fish_drained_needs_command" -l config -d 'The configuration; *.toml in conf.d beside it are read after it' -r -F
complete -c drained -n "__fish_drained_needs_command" -l log-level -d 'The least of what is logged' -r -f -a "error\t''
warning\t''
info\t''
debug\t''"
complete -c drained -n "__fish_drained_needs_command" -l listen -d 'Where clients connect to: IP:PORT, unix:/PATH or systemd:NAME' -r
complete -c drained -n "__fish_drained_needs_command" -l upstream -d 'Where their connections go to: IP:PORT or unix:/PATH' -r
complete -c drained -n "__fish_drained_needs_command" -l protocol -d 'The protocol of the connections: tcp' -r
complete -c drained -n "__fish_drained_needs_command" -l deadline -d 'How long a stop waits for connections at work, as in 30s or 2m [default: 30s]' -r
complete -c drained -n "__fish_drained_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c drained -n "__fish_drained_needs_command" -s V -l version -d 'Print version'
complete -c drained -n "__fish_drained_needs_command" -f -a "check" -d 'Check the configuration: 0 if it is valid, 78 with all errors on standard error if not'
complete -c drained -n "__fish_drained_needs_command" -f -a "demo" -d 'Show a stop, a restart and a SIGKILL under load: a daemon with clients and a server of its own'
complete -c drained -n "__fish_drained_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c drained -n "__fish_drained_using_subcommand check" -l config -d 'The configuration; *.toml in conf.d beside it are read after it' -r -F
complete -c drained -n "__fish_drained_using_subcommand check" -s h -l help -d 'Print help'
complete -c drained -n "__fish_drained_using_subcommand demo" -l config -d 'The configuration; *.toml in conf.d beside it are read after it' -r -F
complete -c drained -n "__fish_drained_using_subcommand demo" -s h -l help -d 'Print help'
complete -c drained -n "__fish_drained_using_subcommand help; and not __fish_seen_subcommand_from check demo help" -f -a "check" -d 'Check the configuration: 0 if it is valid, 78 with all errors on standard error if not'
complete -c drained -n "__fish_drained_using_subcommand help; and not __fish_seen_subcommand_from check demo help" -f -a "demo" -d 'Show a stop, a restart and a SIGKILL under load: a daemon with clients and a server of its own'
complete -c drained -n "__fish_drained_using_subcommand help; and not __fish_seen_subcommand_from check demo help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
