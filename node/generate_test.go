package node

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"chorus/ledger"
	"chorus/model"
	"chorus/node/openai"

	"github.com/ipfs/go-cid"
)

// perToken is the weight of one token in all layers.
const perToken = testLayers * model.UsageScale

func weight(shares []openai.Share) (sum uint64) {
	for _, s := range shares {
		sum += s.Weight
	}
	return sum
}

// greedy asks for the likeliest tokens, and ends with errStop after so many.
func greedy(prompt string, tokens int) openai.Request {
	return openai.Request{Prompt: prompt, MaxTokens: tokens}
}

func TestAnswerIsWhatTheMixtureGives(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	c.publish("alpha", 2)
	n := c.nodes["alpha"]
	var steps []openai.Token
	r, err := n.Generate(t.Context(), greedy("the cat sat", 12), func(s openai.Token) error {
		steps = append(steps, s)
		return nil
	})
	c.must(err)
	ids := encode(n, "the cat sat")
	want := continuation(n, n.Mixture().computes, ids, 12)
	if got := said(steps); got != textOf(n, want) {
		t.Errorf("answered %q, expected %q", got, textOf(n, want))
	}
	if r.PromptTokens != len(ids) || r.CompletionTokens != 12 || len(steps) != 12 || r.FinishReason != "length" {
		t.Errorf("result %+v with %d steps", r, len(steps))
	}
}

func encode(n *Node, text string) (ids []int32) {
	_, tok := n.Anchor()
	for _, id := range tok.Encode(text) {
		ids = append(ids, int32(id))
	}
	return ids
}

// continuation computes the likeliest tokens after ids on m, from nothing.
func continuation(n *Node, m *model.Mixture, ids []int32, tokens int) (out []int32) {
	seq, next := m.NewSequence(), ids
	for range tokens {
		logits, err := seq.Extend(next)
		if err != nil {
			panic(err)
		}
		out = append(out, (&model.Sampler{}).Sample(logits))
		next = out[len(out)-1:]
	}
	return out
}

// textOf is what tokens say, with a run of bytes that are no text as one mark.
func textOf(n *Node, ids []int32) string {
	_, tok := n.Anchor()
	var b []byte
	for _, id := range ids {
		b = append(b, tok.Bytes(int(id))...)
	}
	return oneMark(string(bytes.ToValidUTF8(b, []byte("\uFFFD"))))
}

var marks = regexp.MustCompile("\uFFFD+")

func oneMark(s string) string { return marks.ReplaceAllString(s, "\uFFFD") }

func said(steps []openai.Token) string {
	var b strings.Builder
	for _, s := range steps {
		b.WriteString(s.Text)
	}
	return oneMark(b.String())
}

func TestAnswerUnderWayGoesOnWithoutARevokedExpert(t *testing.T) {
	t.Parallel()
	const before, tokens = 5, 12
	c := found(t, terms{}, "alpha", "beta")
	c.up("alpha", "beta")
	offer, blob := c.publish("beta", 2)
	alpha := c.nodes["alpha"]
	expert, err := model.LoadExpert(alpha.Blobs().Path(blob), alpha.Mixture().computes.Anchor)
	c.must(err)
	with := model.NewMixture(alpha.Mixture().computes.Anchor, expert)
	without := model.NewMixture(with.Anchor)

	var steps []openai.Token
	r, err := alpha.Generate(t.Context(), greedy("the cat", tokens), func(s openai.Token) error {
		steps = append(steps, s)
		if len(steps) == before {
			c.revoke("beta", offer)
			c.await("the drop", gone(offer, blob), "alpha")
		}
		return nil
	})
	c.must(err)
	for i, s := range steps {
		if used := share(s.Attribution, blob) > 0; used != (i < before) {
			t.Errorf("token %d: attribution %+v", i, s.Attribution)
		}
		if computed := weight(s.Attribution) / perToken; i > 0 && i != before && computed != 1 {
			t.Errorf("token %d computed %d tokens, expected 1", i, computed)
		}
	}

	ids := encode(alpha, "the cat")
	first := continuation(alpha, with, ids, before)
	want := append(slices.Clone(first), continuation(alpha, without, slices.Concat(ids, first), tokens-before)...)
	if slices.Equal(want, continuation(alpha, with, ids, tokens)) {
		t.Fatal("the test expects the expert to make a difference")
	}
	if got := said(steps); got != textOf(alpha, want) {
		t.Errorf("answered %q, expected %q: with the expert, then as if it had never been", got, textOf(alpha, want))
	}

	// The prompt and the tokens were computed twice, first with the expert and then without.
	computed := uint64(len(ids)+before-1) + uint64(len(ids)+tokens-1)
	if weight(r.Attribution) != computed*perToken {
		t.Errorf("attribution of %d, expected %d tokens × %d", weight(r.Attribution), computed, perToken)
	}
	for _, id := range []cid.Cid{cid.Undef, blob} {
		if got := c.usage(alpha, id).Weight; got != share(r.Attribution, id) || got == 0 {
			t.Errorf("the ledger has %d of %s, the answer says %d", got, id, share(r.Attribution, id))
		}
	}
	if r.PromptTokens != len(ids) || r.CompletionTokens != tokens {
		t.Errorf("result %+v", r)
	}
}

func TestAnswerUnderWayTakesInANewExpert(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	var blob cid.Cid
	var steps []openai.Token
	_, err := c.nodes["alpha"].Generate(t.Context(), greedy("the cat", 6), func(s openai.Token) error {
		if steps = append(steps, s); len(steps) == 3 {
			_, blob = c.publish("alpha", 2)
		}
		return nil
	})
	c.must(err)
	for i, s := range steps {
		if used := share(s.Attribution, blob) > 0; used != (i >= 3) {
			t.Errorf("token %d: attribution %+v", i, s.Attribution)
		}
	}
}

func TestAttributionAddsUpAndIsOnRecord(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	c.publish("alpha", 2)
	c.publish("alpha", 3)
	n := c.nodes["alpha"]
	var recorded, tokens uint64
	for prompt, length := range map[string]int{"": 1, "the": 1, "the cat sat on the mat": 20, strings.Repeat("dog ", 40): 7} {
		var emitted uint64
		r, err := n.Generate(t.Context(), greedy(prompt, length), func(s openai.Token) error {
			emitted += weight(s.Attribution)
			return nil
		})
		c.must(err)
		computed := uint64(r.PromptTokens + r.CompletionTokens - 1)
		if emitted != computed*perToken || weight(r.Attribution) != emitted {
			t.Errorf("%q: the tokens say %d, the answer %d, expected %d × %d", prompt, emitted, weight(r.Attribution), computed, perToken)
		}
		var parts float64
		for _, s := range r.Attribution {
			parts += s.Share
		}
		if parts < 0.999999 || parts > 1.000001 || len(r.Attribution) != 3 {
			t.Errorf("%q: shares of %+v", prompt, r.Attribution)
		}
		recorded += emitted
		tokens += computed
		usage, err := n.Ledger().Usage()
		c.must(err)
		var sum uint64
		for _, u := range usage {
			if sum += u.Weight; u.Tokens != tokens {
				t.Errorf("%q: the ledger has %d tokens of %s, expected %d", prompt, u.Tokens, u.Expert, tokens)
			}
		}
		if sum != recorded {
			t.Errorf("%q: the ledger has %d, expected %d", prompt, sum, recorded)
		}
	}
}

func TestWhatAnAnswerUsedIsOnRecordHoweverItEnds(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	n := c.nodes["alpha"]
	recorded := uint64(0)
	for name, end := range map[string]func(context.CancelFunc) error{
		"the client is gone":   func(context.CancelFunc) error { return errStop },
		"the context is ended": func(cancel context.CancelFunc) error { cancel(); return nil },
	} {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		steps := 0
		_, err := n.Generate(ctx, greedy("the cat", 50), func(s openai.Token) error {
			recorded += weight(s.Attribution)
			if steps++; steps == 3 {
				return end(cancel)
			}
			return nil
		})
		if !errors.Is(err, errStop) && !errors.Is(err, context.Canceled) || steps != 3 {
			t.Errorf("%s: %v after %d tokens", name, err, steps)
		}
		if u := c.usage(n, cid.Undef); u.Weight != recorded {
			t.Errorf("%s: the ledger has %d, expected %d", name, u.Weight, recorded)
		}
	}
}

func TestGenerateRefusesPromptsThatTheModelCannotRead(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	n := c.nodes["alpha"]
	_, config := testAnchor()
	for name, tt := range map[string]struct {
		ids  []int
		code string
	}{
		"negative id":             {[]int{3, -1}, ""},
		"id past the vocabulary":  {[]int{config.VocabSize}, ""},
		"id past 32 bits":         {[]int{1 << 32}, ""},
		"a prompt of the context": {make([]int, config.MaxPositions), "context_length_exceeded"},
	} {
		_, err := n.Generate(t.Context(), openai.Request{PromptIDs: tt.ids, MaxTokens: 1}, func(openai.Token) error {
			t.Errorf("%s: answered", name)
			return nil
		})
		var e *openai.Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Param != "prompt" || e.Code != tt.code {
			t.Errorf("%s: %#v", name, err)
		}
	}
	if u := c.usage(n, cid.Undef); u != (ledger.Usage{}) {
		t.Errorf("usage %+v of prompts that were refused", u)
	}

	// The longest prompt that fits has room for one token.
	r, err := n.Generate(t.Context(), openai.Request{PromptIDs: make([]int, config.MaxPositions-1), MaxTokens: 9}, func(openai.Token) error { return nil })
	if err != nil || r.CompletionTokens != 1 || r.FinishReason != "length" {
		t.Errorf("the longest prompt: %+v, %v", r, err)
	}
}

// chatting gives the anchor of a member's home a chat template, before its node starts.
func (c *consortium) chatting(name, template string) {
	c.Helper()
	dir, _ := testAnchor()
	to := c.homes[name].Anchor()
	c.must(os.CopyFS(to, os.DirFS(dir)))
	c.must(os.WriteFile(filepath.Join(to, "tokenizer_config.json"), []byte(`{"bos_token":"<|endoftext|>","eos_token":"<|endoftext|>"}`), 0o600))
	c.must(os.WriteFile(filepath.Join(to, "chat_template.jinja"), []byte(template), 0o600))
}

func TestChatPromptIsTheAnchorsTemplateWithItsSpecialTokens(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.chatting("alpha", `{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content ~ eos_token }}{% else %}{{ m.content }}{% endif %}|{% endfor %}`+
		`{% if add_generation_prompt %}the{% endif %}`)
	c.up("alpha")
	n := c.nodes["alpha"]
	ids, err := n.ChatPrompt([]openai.Message{{Role: "user", Content: "cat é"}, {Role: "assistant", Content: "dog"}})
	c.must(err)
	_, tok := n.Anchor()
	end, _ := tok.SpecialID("<|endoftext|>")
	want := slices.Concat([]int{end}, tok.Encode("cat é|dog"), []int{end}, tok.Encode("|the"))
	if !slices.Equal(ids, want) {
		t.Errorf("%v, expected %v", ids, want)
	}
	var steps []openai.Token
	r, err := n.Generate(t.Context(), openai.Request{PromptIDs: ids, MaxTokens: 5}, func(s openai.Token) error {
		steps = append(steps, s)
		return nil
	})
	c.must(err)
	prompt := make([]int32, len(ids))
	for i, id := range ids {
		prompt[i] = int32(id)
	}
	if got := continuation(n, n.Mixture().computes, prompt, 5); said(steps) != textOf(n, got) || r.PromptTokens != len(ids) {
		t.Errorf("answered %q to %d tokens, expected %q to %d", said(steps), r.PromptTokens, textOf(n, got), len(ids))
	}
}

func TestChatsThatCannotBeAskedAreRefused(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		template       string // none if empty
		content        string
		param, message string
	}{
		"no template":         {"", "x", "model", "chorus has no chat template, so it cannot answer chats: use /v1/completions"},
		"not supported":       {"{% include 'x' %}", "x", "model", "the chat template of chorus cannot be used here, as the node's log says: use /v1/completions"},
		"the template's word": {"{{ raise_exception('no ' ~ messages[0].content) }}", "cats", "messages", "no cats"},
		"beyond the template": {"{{ messages[0].content + 1 }}", "x", "messages", "the chat template of chorus makes no prompt of these messages: line 1: str + int is not supported"},
		"a special token":     {"{{ messages[0].content }}", "a<|endoftext|>b", "messages", "messages[0] contains the special token <|endoftext|>, which only the chat template may write"},
	} {
		c := found(t, terms{}, "alpha")
		if tt.template != "" {
			c.chatting("alpha", tt.template)
		}
		c.up("alpha")
		ids, err := c.nodes["alpha"].ChatPrompt([]openai.Message{{Role: "user", Content: tt.content}})
		var e *openai.Error
		if !errors.As(err, &e) || e.Status != http.StatusBadRequest || e.Type != "invalid_request_error" || e.Param != tt.param || e.Message != tt.message || ids != nil {
			t.Errorf("%s: %v, %#v", name, ids, err)
		}
	}
}

func TestAnswerEndsBeforeAStopStringThatSpansTokens(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	n := c.nodes["alpha"]
	ascii := func(s string) bool { return s != "" && s[0] < 0x80 && s[len(s)-1] < 0x80 }
	for seed := range uint64(100) {
		ask := func(stop ...string) (text string, steps []openai.Token, r openai.Result) {
			r, err := n.Generate(t.Context(), openai.Request{Prompt: "the", MaxTokens: 60, Temperature: 1, TopP: 1, Seed: seed, Stop: stop}, func(s openai.Token) error {
				steps = append(steps, s)
				text += s.Text
				return nil
			})
			c.must(err)
			return text, steps, r
		}
		whole, steps, _ := ask()
		for i := 5; i+2 < len(steps); i++ {
			a, b := steps[i].Text, steps[i+1].Text
			if !ascii(a) || !ascii(b) {
				continue
			}
			stop := a[len(a)-1:] + b[:1]
			want, _, _ := strings.Cut(whole, stop)
			got, _, r := ask("never said", stop)
			if got != want || r.FinishReason != "stop" || r.CompletionTokens >= len(steps) {
				t.Errorf("stop %q: %q and %+v, expected %q of %q", stop, got, r, want, whole)
			}
			return
		}
	}
	t.Fatal("no answer has two tokens of text in a row")
}

func TestSameSeedGivesTheSameAnswer(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	ask := func(seed uint64) (text string) {
		_, err := c.nodes["alpha"].Generate(t.Context(), openai.Request{Prompt: "the", MaxTokens: 20, Temperature: 1, TopP: 0.9, Seed: seed}, func(s openai.Token) error {
			text += s.Text
			return nil
		})
		c.must(err)
		return text
	}
	if a, b := ask(1), ask(1); a != b {
		t.Errorf("%q and %q", a, b)
	}
	if ask(1) == ask(2) {
		t.Error("two seeds give the same answer")
	}
}

func TestAnswersAtOnceAreAllOnRecord(t *testing.T) {
	t.Parallel()
	c := found(t, terms{}, "alpha")
	c.up("alpha")
	offer, blob := c.publish("alpha", 2)
	n := c.nodes["alpha"]
	var mu sync.Mutex
	var sum uint64
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			r, err := n.Generate(t.Context(), greedy("the cat", 10), func(openai.Token) error {
				if i == 0 {
					_, err := n.Revoke(t.Context(), offer, "")
					return err
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			sum += weight(r.Attribution)
		})
	}
	wg.Wait()
	if got := c.usage(n, cid.Undef).Weight + c.usage(n, blob).Weight; got != sum {
		t.Errorf("the ledger has %d, the answers say %d", got, sum)
	}
}

// run gives a buffer the bytes in pieces whose lengths are those of split, in turn, and returns the text.
func (b *textBuffer) run(data, split []byte) string {
	var out strings.Builder
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if len(split) > 0 {
			n = min(n, int(split[i%len(split)]))
			if n == 0 && i%len(split) == len(split)-1 {
				n = 1
			}
		}
		stopped := b.add(data[:n])
		data = data[n:]
		out.WriteString(b.take(stopped))
		if stopped {
			return out.String()
		}
	}
	out.WriteString(b.take(true))
	return out.String()
}

func FuzzTextBuffer(f *testing.F) {
	f.Add([]byte("naïve café €𝄞"), []byte{1}, "")
	f.Add([]byte("naïve café €𝄞"), []byte{2, 1, 3}, "fé")
	f.Add([]byte("a\xff\xe2\x82b\xf0\x9d"), []byte{1}, "b")
	f.Add([]byte("aaaaab"), []byte{1, 2}, "aab")
	f.Add([]byte("abcabcabd"), []byte{2}, "abcabd")
	f.Add([]byte("\xe2\x82\xac\xe2\x82"), []byte{3}, "€")
	f.Fuzz(func(t *testing.T, data, split []byte, stop string) {
		plain := (&textBuffer{}).run(data, split)
		if !utf8.ValidString(plain) {
			t.Errorf("%q is not UTF-8", plain)
		}
		if want := oneMark(string(bytes.ToValidUTF8(data, []byte("\uFFFD")))); oneMark(plain) != want {
			t.Errorf("%q, expected %q", plain, want)
		}
		if utf8.Valid(data) && plain != string(data) {
			t.Errorf("%q, expected %q", plain, data)
		}
		stopped := (&textBuffer{stops: []string{"", stop}}).run(data, split)
		if !utf8.ValidString(stopped) {
			t.Errorf("%q is not UTF-8", stopped)
		}
		if utf8.Valid(data) && utf8.ValidString(stop) {
			want := string(data)
			if stop != "" {
				want, _, _ = strings.Cut(want, stop)
			}
			if stopped != want {
				t.Errorf("%q before %q, expected %q", stopped, stop, want)
			}
		}
	})
}
