"""One governor for the processes that share a quota.

The first process that uses an (endpoint, key, model) has the *host*: its plain `Governor`, behind a socket. The others
are its *guests*: each has a `GuestGovernor`, which asks the host for every permit. When a host ends or is killed, one
of the guests takes over. Nobody starts or keeps anything: there is no daemon.

    place            where a host of a quota is found, a socket in the user's runtime folder or a TCP address; and who
                     may be it: whoever holds the lock, or could bind the address
    frames           what is said over the socket
    host, guest      both ends of it
    far_purse        what is said of a budget that several processes spend together
    membership       the life of a guest, who calls a host or becomes it
    counts_file      what a host has counted, for the next
    participant      this process: its thread, the hosts that it has, and the guest that it is
    thread           an event loop for all that, which no user's code holds up
"""
