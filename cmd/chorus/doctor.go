package main

import (
	"errors"

	"chorus/node"

	"github.com/spf13/cobra"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong with the node, and what to do",
		Long: `Examines the data folder and the running node: clock, ledger, disk, keys, whether each other member can
be reached and at which address not, leases, experts, exports. Exits with 1 if something that the node is for does not work.`,
		Example: `  chorus doctor
  chorus doctor --json`,
		Args: args(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			findings, err := a.findings(c)
			if err != nil {
				return err
			}
			wrong := 0
			for _, f := range findings {
				if f.Verdict == node.Wrong {
					wrong++
				}
			}
			if err := a.result(findings, func() {
				for _, f := range findings {
					a.say("%-8s %s", f.Verdict, f.Text)
					if f.Do != "" {
						a.say("         %s", f.Do)
					}
				}
			}); err != nil {
				return err
			}
			if wrong > 0 {
				return errSick
			}
			return nil
		},
	}
}

// errSick ends a doctor's visit that found something wrong, which has been said.
var errSick = errors.New("something is wrong with the node: see above")

func (a *app) findings(c *cobra.Command) (findings []node.Finding, err error) {
	client, err := node.Dial(c.Context(), a.node())
	if err == nil {
		return client.Doctor(c.Context())
	}
	if !errors.Is(err, node.ErrNotRunning) {
		return nil, err
	}
	config, err := a.node().Config()
	if err != nil {
		return nil, err
	}
	l, err := a.node().OpenLedger()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	findings = node.OfflineDoctor(c.Context(), a.node(), l, config.Member)
	return append(findings, node.Finding{Check: "running", Verdict: node.Notable,
		Text: "The node is not running, so that leases are not renewed, and nobody can say whether other members can be reached.",
		Do:   "Start it with `chorus up`."}), nil
}
