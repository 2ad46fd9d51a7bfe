package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"chorus/node"
	"chorus/node/invite"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// lookEvery is how often an invitation is looked at while a terminal waits for what comes of it.
const lookEvery = 500 * time.Millisecond

func (a *app) inviteCommand() *cobra.Command {
	var request node.InviteRequest
	var wait, show, yes bool
	var cancel string
	c := &cobra.Command{
		Use:   "invite [ORGANISATION]",
		Short: "Invite an organisation with a code, as a steward",
		Long: `Prints a code, good for one organisation and 72 hours, which that one gives to "chorus join" on its own machine. Send it
over a line that you trust to keep it: whoever has it can ask in that organisation's name. What it asks then shows a fingerprint
on both sides, which the two of you compare, by telephone for instance, before you sign.

On a terminal the command waits for that and asks you; Ctrl-C ends the waiting and not the invitation. Later the request is in "chorus
charter show", and "chorus charter sign ORGANISATION" admits it. This node must run, and be reachable, for the other side to
join: the code has its addresses, or those of --address.`,
		Example: `  chorus invite clinic
  chorus invite clinic --address /dns4/chorus.example.org/tcp/4101
  chorus invite --list
  chorus invite --cancel clinic`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	with := caution(c)
	c.RunE = func(c *cobra.Command, given []string) error {
		if n := len(given); n == 1 && (show || cancel != "") || n == 0 && show == (cancel != "") {
			return usageError{errors.New("name one organisation, or --list, or --cancel ORGANISATION")}
		}
		if !c.Flags().Changed("wait") {
			in, ok := c.InOrStdin().(*os.File)
			wait = ok && term.IsTerminal(int(in.Fd())) && !a.json
		}
		return a.control(c.Context(), func(k node.Control) error {
			switch {
			case show:
				return a.listInvitations(c.Context(), k)
			case cancel != "":
				if err := k.CancelInvitation(c.Context(), cancel); err != nil {
					return err
				}
				a.say("The invitation of %s is taken back.", cancel)
				return nil
			}
			request.Name = given[0]
			i, err := k.Invite(c.Context(), request)
			if err != nil {
				return err
			}
			if err := a.result(i, func() {
				a.say("Invitation for %s, good once, until %s. On its machine:\n", request.Name, i.Expires.Local().Format("2006-01-02 15:04"))
				a.say("    chorus join %s\n", i.Code)
				a.say("It will look for this node at %s.", list(i.Addresses))
			}); err != nil {
				return err
			}
			if !wait {
				if _, here := k.(*node.Node); here {
					a.say("Start this node with `chorus up`, so that it can be reached.")
				}
				return nil
			}
			return a.awaitGuest(c, k, request.Name, yes, with())
		})
	}
	f := c.Flags()
	f.StringSliceVar(&request.Addresses, "address", nil, "multiaddr at which others reach this node, if not where it listens (repeatable)")
	f.BoolVar(&wait, "wait", false, "wait for the request and ask whether to admit it (default on a terminal)")
	f.BoolVar(&yes, "yes", false, "with --wait: admit whoever uses the code, without comparing fingerprints")
	f.BoolVar(&show, "list", false, "list the invitations and what came of them")
	f.StringVar(&cancel, "cancel", "", "take back the invitation of an organisation, or decline its request")
	return c
}

func (a *app) listInvitations(ctx context.Context, k node.Control) error {
	all, err := k.Invitations(ctx)
	if err != nil {
		return err
	}
	return a.result(all, func() {
		if len(all) == 0 {
			a.say("nobody is invited")
			return
		}
		rows := [][]string{{"organisation", "until", "state", "fingerprint"}}
		for _, i := range all {
			rows = append(rows, []string{i.Name, i.Expires.Local().Format("2006-01-02 15:04"), invitationWords(i), i.Fingerprint})
		}
		a.table(rows)
	})
}

func invitationWords(i node.Invitation) string {
	switch {
	case i.Joined:
		return "joined"
	case i.State == "":
		return "not used yet"
	case i.State == invite.Waiting:
		return "asks to be admitted: " + i.Detail
	}
	return string(i.State)
}

// awaitGuest waits for what comes of an invitation, and asks whether to admit the one who uses it.
func (a *app) awaitGuest(c *cobra.Command, k node.Control, name string, yes bool, with node.Caution) error {
	ctx := c.Context()
	a.say("Waiting for %s. Ctrl-C ends the waiting; the invitation stands.", name)
	every := time.NewTicker(lookEvery)
	defer every.Stop()
	signed := false
	for {
		select {
		case <-every.C:
		case <-ctx.Done():
			return withHint(ctx.Err(), "the invitation stands: `chorus charter show` shows the request when it comes")
		}
		all, err := k.Invitations(ctx)
		if err != nil {
			return err
		}
		var i node.Invitation
		for _, one := range all {
			if one.Name == name {
				i = one // the last is the one that stands
			}
		}
		switch {
		case i.Joined:
			a.say("%s has joined.", name)
			return nil
		case i.State == invite.Waiting && !signed:
			a.sayRequest(i)
			if err := a.confirm(c, yes, fmt.Sprintf("Does %s read the same? Admit it?", name)); err != nil {
				return withHint(err, "`chorus charter sign "+name+"` admits it after all, `chorus invite --cancel "+name+"` declines")
			}
			if err := a.admit(ctx, k, i, with); err != nil {
				return err
			}
			signed = true
		case i.State != "" && i.State != invite.Waiting && i.State != invite.Admitted:
			return fmt.Errorf("the invitation of %s is %s", name, i.State)
		}
	}
}

func (a *app) joinCommand() *cobra.Command {
	config := node.Config{}
	c := &cobra.Command{
		Use:   "join [CODE]",
		Short: "Join a consortium with the code that a steward gave you",
		Long: `Makes the data folder and keys, as "chorus init" does, asks the node that gave out the code to be admitted, and shows a
fingerprint: read it to the steward, who must see the same. It then waits until the stewards have signed, and takes
the charter into use. Ctrl-C loses nothing: "chorus join" goes on.`,
		Example: `  chorus join 0C9AQ-…
  chorus join                          go on after an interruption`,
		Args: args(cobra.ArbitraryArgs), // of a code that was pasted with its gaps
		RunE: func(c *cobra.Command, given []string) error {
			j := node.Joining{Config: config}
			if len(given) > 0 {
				var text string
				for _, part := range given {
					text += part
				}
				var err error
				if j.Code, err = invite.Parse(text); err != nil {
					return withHint(err, "copy it whole, from the first character to the last, and try again")
				}
			}
			return a.join(c.Context(), j)
		},
	}
	c.Flags().StringSliceVar(&config.Listen, "listen", []string{defaultListen}, "multiaddr to listen on for other members")
	c.Flags().StringVar(&config.API, "api", defaultAPI, "address of the endpoint for local programs")
	return c
}

func (a *app) join(ctx context.Context, j node.Joining) error {
	greeted, unreachable, said := false, false, ""
	j.Greeted = func(g invite.Greeting, fingerprint string) {
		unreachable = false
		if greeted {
			return
		}
		greeted = true
		a.say("You ask %s to be admitted to %s. Read this fingerprint to %s, which must see the same:\n", g.Member, g.Consortium, g.Member)
		a.say("    %s\n", fingerprint)
		a.say("If it does not, stop with Ctrl-C: somebody stands between you.")
	}
	j.Heard = func(w invite.Word) {
		if w.Detail != said {
			said = w.Detail
			a.say("Waiting: %s.", w.Detail)
		}
	}
	j.Unreachable = func(err error) {
		if !unreachable {
			unreachable = true
			if errors.Is(err, network.ErrReset) {
				err = errors.New("it ended the conversation")
			}
			fmt.Fprintf(a.err, "the node that gave out the code does not answer, trying on: %v\n", err)
		}
	}
	err := a.node().Join(ctx, j)
	switch {
	case errors.Is(err, node.ErrNotJoining):
		return withHint(err, "`chorus join CODE` begins one")
	case errors.Is(err, context.Canceled):
		return withHint(err, "`chorus join` without the code will do")
	case err != nil:
		return err
	}
	n, err := a.node().Config()
	if err != nil {
		return err
	}
	all, err := a.charters(ctx)
	if err != nil {
		return err
	}
	name := all.Versions[0].Charter.Name
	return a.result(map[string]any{"member": n.Member, "consortium": name, "charter": all.Current.String()}, func() {
		a.say("%s is a member of %s. Its keys and charter are in %s.", n.Member, name, a.home)
		a.say("Take recovery.key from there to a place apart: it replaces the other keys if they are lost or stolen.")
		a.say("Start the node with `chorus up`: it fetches the anchor and serves.")
	})
}

func (a *app) leaveCommand() *cobra.Command {
	var reason string
	var yes bool
	c := &cobra.Command{
		Use:   "leave",
		Short: "Leave the consortium: withdraw everything for ever, and be taken off the charter",
		Long: `Revokes all that this member has on offer, so that no honest node generates another token with it, and has the member taken
off the charter: a steward's node proposes that itself, and that of any other member shows the stewards that it leaves.
Until they have signed, the node may still connect.`,
		Example: `  chorus leave --reason "the project has ended"`,
		Args:    args(cobra.NoArgs),
	}
	with := caution(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := a.confirm(c, yes, "This withdraws all that this member has on offer, for ever. Leave?"); err != nil {
			return err
		}
		return a.control(c.Context(), func(k node.Control) error {
			ctx, cancel := context.WithTimeout(c.Context(), 2*reachWithin)
			defer cancel()
			s, err := k.Status(ctx)
			if err != nil {
				return err
			}
			var d node.Departure
			err = a.unlocked(ctx, k, func() (err error) {
				d, err = k.Leave(ctx, reason, with())
				return err
			})
			if errors.Is(err, node.ErrPending) {
				return cautioned(err)
			} else if err != nil {
				return err
			}
			return a.result(d, func() {
				a.say("All that this member had on offer is withdrawn.")
				if d.Removal != nil {
					a.saySigned(*d.Removal)
					return
				}
				if len(s.Members) == 0 {
					a.say("It was the only member: there is nobody to tell.")
					return
				}
				a.say("The stewards see in `chorus charter show` that it leaves, and take it off the charter.")
			})
		})
	}
	c.Flags().StringVar(&reason, "reason", "leaves the consortium", "why, for people to read")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return c
}
