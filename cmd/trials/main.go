// Command trials re-measures every claim that the project makes, and exits non-zero where one does
// not hold.
//
//	go run ./cmd/trials demo --seeds 3
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	root := &cobra.Command{
		Use: "trials", Short: "Re-measure the project's claims",
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(demoTrial(), parityTrial(), tokenizerTrial(), safetensorsTrial(), largeTrial(), lowrankTrial(), kernelsTrial(), paperTrial(), streamTrial())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "trials:", err)
		os.Exit(1)
	}
}
