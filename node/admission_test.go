package node

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chorus/ledger"
	"chorus/ledger/notice"
	"chorus/model"
)

func TestAdmissionRefusesWhatIsUnfit(t *testing.T) {
	t.Parallel()
	c := found(t, terms{maxBlobBytes: 64 << 10}, "alpha", "beta")
	c.up("alpha", "beta")
	sound, _ := c.publish("alpha", 2)

	other, _, err := blobOf(filepath.Join(scratch, "anchor", model.TokenizerFile)) // some CID
	c.must(err)
	set := func(value float32, names ...string) func(*model.Tensor) {
		return func(t *model.Tensor) {
			for _, name := range names {
				if strings.HasSuffix(t.Name, name) {
					for i := range t.Values {
						t.Values[i] = value
					}
				}
			}
		}
	}
	text := filepath.Join(t.TempDir(), "text")
	c.must(os.WriteFile(text, []byte("no safetensors at all"), 0o600))
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	{
		tensors, src := randomTensors(7)
		_, config := testAnchor()
		_, err := model.BuildExpert(config, src)
		c.must(err)
		c.must(model.SaveExpert(elsewhere, other.String(), *tensors))
	}
	for i, tt := range []struct {
		name   string
		path   string
		offer  func(*notice.Offer)
		reason string
	}{
		{"another anchor", c.expert(10, nil), func(o *notice.Offer) { o.Anchor = other }, "the expert was trained against anchor " + other.String()},
		{"another anchor in the blob", elsewhere, nil, fmt.Sprintf("the blob names anchor %q", other)},
		{"larger than the charter allows", c.expert(11, nil), func(o *notice.Offer) { o.Size = 64<<10 + 1 }, "the expert has 65537 bytes, the charter allows 65536"},
		{"not a number", c.expert(12, set(float32(math.NaN()), "layers.1.up_proj.weight")), nil, `tensor "layers.1.up_proj.weight" holds NaN`},
		{"infinite", c.expert(13, set(float32(math.Inf(-1)), "router.bias")), nil, "holds NaN or an infinity"},
		{"weights that overflow", c.expert(14, set(1e30, "gate_proj.weight", "up_proj.weight", "down_proj.weight", "router.weight")), nil, "the expert computes "},
		{"a tensor of another shape", c.expert(15, func(t *model.Tensor) {
			if t.Name == "layers.0.down_proj.weight" {
				t.Shape = []int{t.Shape[1], t.Shape[0]}
			}
		}), nil, `tensor "layers.0.down_proj.weight" has shape [24 16], expected [16 24]`},
		{"a tensor of another name", c.expert(16, func(t *model.Tensor) {
			if t.Name == "layers.0.router.bias" {
				t.Name = "layers.7.router.bias"
			}
		}), nil, `tensor "layers.0.router.bias" is missing`},
		{"another kind of file", text, nil, "safetensors"},
	} {
		offer := c.offerUnchecked("beta", tt.path, tt.offer)
		refused := func(n *Node) bool {
			return c.status(n, offer).Refusal != "" && c.events(n, ledger.EventRefused, offer) > 0
		}
		c.await("refusal of "+tt.name, func(n *Node) bool { return c.knows(n, offer, ledger.Active) && refused(n) })
		for name, n := range c.nodes {
			e := c.status(n, offer)
			if e.InUse || e.State != ledger.Active || !strings.Contains(e.Refusal, tt.reason) {
				t.Errorf("%s, %s: status %+v, expected a refusal with %q", tt.name, name, e, tt.reason)
			}
			if strings.Contains(e.Refusal, string(c.homes[name])) {
				t.Errorf("%s, %s: the reason %q tells of this machine's paths", tt.name, name, e.Refusal)
			}
			if c.events(n, ledger.EventRefused, offer) != 1 || c.events(n, ledger.EventAdmitted, offer) != 0 {
				t.Errorf("%s, %s: the account lacks the refusal", tt.name, name)
			}
			if n.Mixture().stands(offer) || !n.Mixture().stands(sound) || len(n.Mixture().Experts) != 1 {
				t.Errorf("%s, %s: the mixture has %d experts after %d refusals", tt.name, name, len(n.Mixture().Experts), i+1)
			}
			if c.answer(n, 2); !n.LastUsed(offer).IsZero() {
				t.Errorf("%s, %s: the refused expert was used", tt.name, name)
			}
		}
	}
}

func TestPublishRefusesWhatOthersWouldRefuse(t *testing.T) {
	t.Parallel()
	c := found(t, terms{maxBlobBytes: 1 << 10}, "alpha")
	c.up("alpha")
	alpha := c.nodes["alpha"]
	nan := c.expert(2, func(t *model.Tensor) { t.Values[0] = float32(math.NaN()) })
	foreign := filepath.Join(t.TempDir(), "foreign")
	tensors, src := randomTensors(3)
	_, config := testAnchor()
	_, err := model.BuildExpert(config, src)
	c.must(err)
	c.must(model.SaveExpert(foreign, c.charter.CID.String(), *tensors))
	for _, tt := range []struct{ name, path, want string }{
		{"no such file", filepath.Join(t.TempDir(), "none"), "no such file"},
		{"not a number", nan, "NaN"},
		{"another anchor", foreign, "was trained against anchor"},
		{"too large", c.expert(4, nil), "the charter allows 1024"},
	} {
		if _, err := alpha.Publish(t.Context(), publication(tt.path)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, expected %q", tt.name, err, tt.want)
		}
	}
	if heads := alpha.Ledger().Heads(); len(heads) != 0 {
		t.Errorf("something was signed: %v", heads)
	}
	if ids, err := alpha.Blobs().List(); err != nil || len(ids) != 4 { // the anchor's folder and three files
		t.Errorf("the store has %v, %v", ids, err)
	}
}
