package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// inNetwork is set where a trial runs in a network namespace of its own.
const inNetwork = "CHORUS_TRIAL_NETWORK"

// alone runs this trial again in a network namespace of its own, whose loopback can be cut in two without anybody
// else noticing, and reports whether it did: then err is what came of it. It needs no privileges but that user
// namespaces are allowed, and ip of iproute2.
func alone(ctx context.Context) (done bool, err error) {
	if os.Getenv(inNetwork) != "" {
		return false, prepareNetwork(ctx)
	}
	self, err := os.Executable()
	if err != nil {
		return true, err
	}
	cmd := interruptible(ctx, self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inNetwork+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return true, errors.New("see above")
	}
	return true, err
}

func prepareNetwork(ctx context.Context) error {
	return commands(ctx,
		"ip link set lo up",
		// Addresses of this machine are looked up first, in a new namespace: what cuts them off must come before.
		"ip rule add pref 100 lookup local",
		"ip rule del pref 0",
	)
}

// The two sides of a network, and whoever connects without an address of its own: libp2p does where the one it
// listens on cannot be used to dial with.
var sides = [2]string{"127.1.0.0/16", "127.2.0.0/16"}

const unnamed = "127.0.0.1/32"

// cut parts the sides from each other: what is sent across is refused, and connections across end.
func cut(ctx context.Context) error {
	return commands(ctx,
		"ip rule add pref 10 from "+sides[0]+" to "+sides[1]+" prohibit",
		"ip rule add pref 11 from "+sides[1]+" to "+sides[0]+" prohibit",
		"ip rule add pref 12 from "+unnamed+" to "+sides[0]+" prohibit",
		"ip rule add pref 13 from "+unnamed+" to "+sides[1]+" prohibit",
		"ss -K src "+sides[0]+" dst "+sides[1],
		"ss -K src "+sides[1]+" dst "+sides[0],
		"ss -K src "+unnamed+" dst "+sides[0],
		"ss -K src "+unnamed+" dst "+sides[1],
	)
}

// heal joins the sides again.
func heal(ctx context.Context) error {
	return commands(ctx, "ip rule del pref 10", "ip rule del pref 11", "ip rule del pref 12", "ip rule del pref 13")
}

func commands(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.CommandContext(ctx, words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
