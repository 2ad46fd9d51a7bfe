package notice

import "github.com/ipfs/go-cid"

// maxTopK is the largest number of experts that a router may choose per token.
const maxTopK = 256

// Offer announces an expert.
type Offer struct {
	Header
	Blob    cid.Cid  `json:"blob"`    // the expert: UnixFS root, codec raw or dag-pb
	Size    int64    `json:"size"`    // of the blob, in bytes; from 1
	Anchor  cid.Cid  `json:"anchor"`  // what it was trained against: UnixFS root
	Domain  string   `json:"domain"`  // what its text was about, in a line
	Licence string   `json:"licence"` // SPDX expression
	TopK    int      `json:"top_k"`   // experts per token that it was trained with, the anchor's counted; 1 to 256
	Bias    bool     `json:"bias"`    // whether the blob has a router bias
	Metrics Metrics  `json:"metrics"`
	Privacy *Privacy `json:"privacy,omitzero"` // nil if none is claimed

	// LeakReport is the digest of what the owner found when looking for what the expert gives away of its training text: a CID of JSON. It is
	// undefined if the owner did not look, or does not say.
	LeakReport cid.Cid `json:"leak_report,omitzero"`
}

// Metrics are what the owner measured, in the owner's words and unproven.
// All are finite and not negative.
type Metrics struct {
	TrainTokens       int64   `json:"train_tokens"`
	HeldoutBytes      int64   `json:"heldout_bytes"` // UTF-8 bytes of the held-out text of its domain
	AnchorBitsPerByte float64 `json:"anchor_bits_per_byte"`
	ExpertBitsPerByte float64 `json:"expert_bits_per_byte"`
}

// Kind returns KindOffer.
func (o *Offer) Kind() Kind { return KindOffer }

func (o *Offer) validate() error {
	for _, err := range []error{
		o.Header.validate(),
		checkBlob("blob", o.Blob),
		checkRange("size", o.Size, 1, MaxSeq),
		checkBlob("anchor", o.Anchor),
		checkLabel("domain", o.Domain),
		checkLabel("licence", o.Licence),
		checkRange("top_k", int64(o.TopK), 1, maxTopK),
		checkRange("train_tokens", o.Metrics.TrainTokens, 0, MaxSeq),
		checkRange("heldout_bytes", o.Metrics.HeldoutBytes, 0, MaxSeq),
		checkMeasure("anchor_bits_per_byte", o.Metrics.AnchorBitsPerByte),
		checkMeasure("expert_bits_per_byte", o.Metrics.ExpertBitsPerByte),
		o.Privacy.validate(),
	} {
		if err != nil {
			return err
		}
	}
	if o.LeakReport.Defined() {
		return checkRef("leak_report", o.LeakReport)
	}
	return nil
}
