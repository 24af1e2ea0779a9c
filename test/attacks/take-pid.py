# SPDX-License-Identifier: Apache-2.0
# Runs a program as a new process of a pod (or, without --pod, of the node) that has a chosen process id: what a pod
# gets by forking until the numbers come round, at once.
#   take-pid.py [--pod PID] --cgroup FOLDER --id N -- PROGRAM ARGUMENT…
import argparse, ctypes, os, struct, sys

parser = argparse.ArgumentParser()
parser.add_argument('--pod', type=int, help='any process of the pod')
parser.add_argument('--cgroup')
parser.add_argument('--id', type=int, required=True)
parser.add_argument('argv', nargs='+')
options = parser.parse_args()

SYS_CLONE3 = 435
SIGCHLD = 17
EEXIST = 17
# In the pod's own numbering any number will do that is far from those in use.
WITHIN_POD = 30_000
libc = ctypes.CDLL(None, use_errno=True)

if options.cgroup is not None:
    with open(f'{options.cgroup}/cgroup.procs', 'w') as procs:
        procs.write('0')
ids = [options.id]
if options.pod is not None:
    kinds = ['pid', 'net', 'mnt']
    entered = [os.open(f'/proc/{options.pod}/ns/{kind}', os.O_RDONLY) for kind in kinds]
    # Before /proc is the pod's.
    if os.stat('/proc/self/ns/pid').st_ino != os.fstat(entered[0]).st_ino:
        ids = [WITHIN_POD, options.id]
    for kind, fd in zip(kinds, entered):
        if libc.setns(fd, 0) != 0:
            sys.exit(f'setns {kind}: {os.strerror(ctypes.get_errno())}')

set_tid = (ctypes.c_int * len(ids))(*ids)
arguments = struct.pack('11Q', 0, 0, 0, 0, SIGCHLD, 0, 0, 0, ctypes.addressof(set_tid), len(ids), 0)
child = libc.syscall(SYS_CLONE3, arguments, ctypes.c_size_t(len(arguments)))
if child == 0:
    os.execvp(options.argv[0], options.argv)
if child < 0:
    error = ctypes.get_errno()
    sys.exit(75 if error == EEXIST else f'clone3: {os.strerror(error)}')
assert child == options.id, child
_, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status) & 0x7f)
