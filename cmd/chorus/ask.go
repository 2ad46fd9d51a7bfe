package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"chorus/node"
	"chorus/node/openai"

	"github.com/spf13/cobra"
)

// A question is what ask sends.
type question struct {
	Model       string  `json:"model"`
	Prompt      string  `json:"prompt"`
	MaxTokens   int     `json:"max_tokens"`
	Temperature float64 `json:"temperature"`
	TopP        float64 `json:"top_p"`
	Seed        *int64  `json:"seed,omitempty"`
	Stream      bool    `json:"stream"`
}

// A chunk is what the endpoint streams.
type chunk struct {
	Choices []struct {
		Text         string  `json:"text"`
		FinishReason *string `json:"finish_reason"`
	} `json:"choices"`
	Chorus struct {
		Attribution []openai.Share `json:"attribution"`
	} `json:"chorus"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func (a *app) askCommand() *cobra.Command {
	q := question{Model: "chorus", Stream: true}
	var endpoint string
	var seed int64
	c := &cobra.Command{
		Use:   "ask PROMPT",
		Short: "Ask the mixture of a running node to continue a text",
		Long: `Streams the continuation of a text from a node's OpenAI-compatible endpoint, then shows each
expert's share of the work. The node is the one that runs in the data folder; if none does, the
one at the default address, such as a demo's.`,
		Example: `  chorus ask "The rays of light"
  chorus ask --max-tokens 200 --temperature 0 "func main() {"
  echo "TEXT" | chorus ask -`,
		Args: args(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, given []string) error {
			q.Prompt = given[0]
			if q.Prompt == "-" {
				b, err := io.ReadAll(c.InOrStdin())
				if err != nil {
					return err
				}
				q.Prompt = string(b)
			}
			if c.Flags().Changed("seed") {
				q.Seed = &seed
			}
			if endpoint == "" {
				endpoint = "http://" + defaultAPI
				if client, err := node.Dial(c.Context(), a.node()); err == nil {
					endpoint = client.URL
				}
			}
			var text strings.Builder
			shares, err := ask(c.Context(), endpoint, q, func(s string, _ []openai.Share) {
				text.WriteString(s)
				if !a.json {
					fmt.Fprint(a.out, s)
				}
			})
			if unreachable := (*net.OpError)(nil); errors.As(err, &unreachable) {
				return withHint(fmt.Errorf("%s: %w", endpoint, err), "start a node with `chorus up` or `chorus demo --keep`, or name one with --endpoint")
			} else if err != nil {
				return err
			}
			return a.result(map[string]any{"text": text.String(), "attribution": shares}, func() {
				a.say("")
				fmt.Fprintln(a.err, "  "+shareLine(shares))
			})
		},
	}
	c.Flags().StringVar(&endpoint, "endpoint", os.Getenv("CHORUS_ENDPOINT"), "base URL of a node's endpoint (or $CHORUS_ENDPOINT)")
	c.Flags().IntVar(&q.MaxTokens, "max-tokens", 100, "how long the answer may get")
	c.Flags().Float64Var(&q.Temperature, "temperature", 0.7, "0 always takes the most likely token")
	c.Flags().Float64Var(&q.TopP, "top-p", 0.95, "choose among the most likely tokens of this probability")
	c.Flags().Int64Var(&seed, "seed", 0, "the same seed gives the same answer")
	return c
}

// ask streams the answer to q from the endpoint at base, and returns the shares in all of it. heard is
// called with each piece of text and the shares of the token that it came with.
func ask(ctx context.Context, base string, q question, heard func(string, []openai.Share)) ([]openai.Share, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/completions", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var c chunk
		if err := json.NewDecoder(resp.Body).Decode(&c); err != nil || c.Error == nil {
			return nil, errors.New(resp.Status)
		}
		return nil, errors.New(c.Error.Message)
	}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var c chunk
		if err := json.Unmarshal([]byte(data), &c); err != nil {
			return nil, err
		}
		switch {
		case c.Error != nil:
			return nil, errors.New(c.Error.Message)
		case len(c.Choices) == 0:
		case c.Choices[0].FinishReason != nil:
			return c.Chorus.Attribution, nil
		default:
			heard(c.Choices[0].Text, c.Chorus.Attribution)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return nil, io.ErrUnexpectedEOF
}

// shareLine says who did how much, the largest share first.
func shareLine(shares []openai.Share) string {
	sorted := slices.Clone(shares)
	slices.SortStableFunc(sorted, func(a, b openai.Share) int {
		switch {
		case a.Share > b.Share:
			return -1
		case a.Share < b.Share:
			return 1
		}
		return 0
	})
	var parts []string
	for _, s := range sorted {
		parts = append(parts, fmt.Sprintf("%s %.0f %%", expertName(s), 100*s.Share))
	}
	return strings.Join(parts, " · ")
}

func expertName(s openai.Share) string {
	if s.Domain != "" {
		return s.Domain
	}
	return s.Expert
}
