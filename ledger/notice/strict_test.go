package notice

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

func TestParseRefusesPayloadsThatASignerMightHaveMadeBadly(t *testing.T) {
	offer := payloadOf(t, anOffer())
	lease := payloadOf(t, aLease())
	revocation := payloadOf(t, aRevocation())
	charter := payloadOf(t, aCharter())
	private := payloadOf(t, aPrivateOffer())
	detached := payloadOf(t, aDetachedRevocation())
	vote := payloadOf(t, aVote())
	delegation := payloadOf(t, aDelegation())
	rotation := payloadOf(t, aRotation())
	statement := payloadOf(t, aStatement())
	exported := payloadOf(t, anExportStatement())
	revokers := sortedKeys(41, 42)
	text := func(seed byte) string { return PublicKeyOf(key(seed)).String() }
	longCID := strings.ToUpper(blob("expert").String())
	tests := []struct {
		name, kind, payload, old, new string
	}{
		{"seq 0", "offer", offer, `"seq":1`, `"seq":0`},
		{"negative seq", "offer", offer, `"seq":1`, `"seq":-1`},
		{"seq out of range", "revocation", revocation, `"seq":3`, `"seq":9007199254740992`},
		{"seq beyond 64 bits", "revocation", revocation, `"seq":3`, `"seq":18446744073709551616`},
		{"seq as a float", "offer", offer, `"seq":1`, `"seq":1.0`},
		{"seq as a power", "revocation", revocation, `"seq":3`, `"seq":3e0`},
		{"seq as a string", "offer", offer, `"seq":1`, `"seq":"1"`},
		{"seq missing", "offer", offer, `"seq":1,`, ``},
		{"prev on seq 1", "offer", offer, `"seq":1`, `"seq":1,"prev":"` + ref("prev").String() + `"`},
		{"prev missing", "lease", lease, `"prev":"` + ref("prev").String() + `",`, ``},
		{"prev null", "lease", lease, `"prev":"` + ref("prev").String() + `"`, `"prev":null`},
		{"charter missing", "offer", offer, `"charter":"` + ref("charter").String() + `",`, ``},
		{"unknown field", "offer", offer, `"bias":true`, `"bias":true,"extra":1`},
		{"unknown field further down", "offer", offer, `"train_tokens"`, `"x":1,"train_tokens"`},
		{"duplicate field", "offer", offer, `"bias":true`, `"bias":true,"bias":true`},
		{"field in other case", "offer", offer, `"bias"`, `"Bias"`},
		{"fields in another order", "offer", offer, `"top_k":2,"bias":true`, `"bias":true,"top_k":2`},
		{"field missing", "offer", offer, `"bias":true,`, ``},
		{"null for a boolean", "offer", offer, `"bias":true`, `"bias":null`},
		{"null for a text", "revocation", revocation, `"the contract ended"`, `null`},
		{"null for a list", "lease", lease, `"heads":[`, `"heads":null,"x":[`},
		{"null", "offer", "null", ``, ``},
		{"nothing", "offer", "", ``, ``},
		{"trailing bytes", "offer", offer + "{}", ``, ``},
		{"trailing white space", "offer", offer + "\n", ``, ``},
		{"white space", "offer", offer, `"bias":true`, `"bias": true`},
		{"invalid UTF-8", "offer", offer, `court`, "co\xffrt"},
		{"half a surrogate pair", "offer", offer, `court`, `co\ud800rt`},
		{"needless escape", "offer", offer, `court`, `co\u0075rt`},
		{"terminal escape", "offer", offer, `court`, `co\u001brt`},
		{"text that turns direction", "offer", offer, `court`, "co\u202ert"},
		{"text too long", "offer", offer, `court`, strings.Repeat("c", maxText)},
		{"empty domain", "offer", offer, `court rulings <de>`, ` `},
		{"empty licence", "offer", offer, `CC-BY-4.0`, ``},
		{"time with fraction", "offer", offer, `12:00:00Z`, `12:00:00.5Z`},
		{"time with zero fraction", "offer", offer, `12:00:00Z`, `12:00:00.0Z`},
		{"time with offset", "offer", offer, `12:00:00Z`, `12:00:00+00:00`},
		{"time in lower case", "offer", offer, `T12:00:00Z`, `t12:00:00z`},
		{"time of a leap second", "offer", offer, `12:00:00Z`, `12:00:60Z`},
		{"time as a number", "offer", offer, `"2026-03-01T12:00:00Z"`, `1772366400`},
		{"the zero time", "offer", offer, `2026-03-01T12:00:00Z`, `0001-01-01T00:00:00Z`},
		{"size 0", "offer", offer, `"size":4096`, `"size":0`},
		{"size out of range", "offer", offer, `"size":4096`, `"size":9007199254740992`},
		{"top_k 0", "offer", offer, `"top_k":2`, `"top_k":0`},
		{"top_k out of range", "offer", offer, `"top_k":2`, `"top_k":257`},
		{"negative tokens", "offer", offer, `"train_tokens":1000000`, `"train_tokens":-1`},
		{"negative measure", "offer", offer, `1.25`, `-1.25`},
		{"negative zero", "offer", offer, `1.25`, `-0`},
		{"measure beyond float64", "offer", offer, `1.25`, `1e999`},
		{"measure not a number", "offer", offer, `1.25`, `NaN`},
		{"measure spelled otherwise", "offer", offer, `1.25`, `1.250`},
		{"privacy null", "offer", private, private[strings.Index(private, `"privacy":`):], `"privacy":null}`},
		{"privacy without a field", "offer", private, `"steps":200,`, ``},
		{"privacy with another field", "offer", private, `"steps":200`, `"steps":200,"x":1`},
		{"privacy of no unit", "offer", private, `field:patient_id`, ``},
		{"privacy of an unknown unit", "offer", private, `field:patient_id`, `window`},
		{"privacy of a field without a name", "offer", private, `field:patient_id`, `field: `},
		{"privacy of a unit that cannot be printed", "offer", private, `patient_id`, `patient\u001bid`},
		{"privacy of a unit that is too long", "offer", private, `patient_id`, strings.Repeat("p", maxText)},
		{"privacy by shuffling", "offer", private, `poisson`, `shuffled`},
		{"privacy by no sampler", "offer", private, `poisson`, ``},
		{"rate 0", "offer", private, `0.0625`, `0`},
		{"rate above 1", "offer", private, `0.0625`, `1.5`},
		{"negative rate", "offer", private, `0.0625`, `-0.5`},
		{"noise 0", "offer", private, `"noise":1.5`, `"noise":0`},
		{"noise without end", "offer", private, `"noise":1.5`, `"noise":1e10`},
		{"clip 0", "offer", private, `"clip":0.1`, `"clip":0`},
		{"no steps", "offer", private, `"steps":200`, `"steps":0`},
		{"steps as a float", "offer", private, `"steps":200`, `"steps":200.5`},
		{"steps out of range", "offer", private, `"steps":200`, `"steps":9007199254740992`},
		{"start without noise", "offer", private, `"start_noise":20`, `"start_noise":0`},
		{"δ 0", "offer", private, `0.000001`, `0`},
		{"δ 1", "offer", private, `0.000001`, `1`},
		{"ε 0", "offer", private, `2.997`, `0`},
		{"negative ε", "offer", private, `2.997`, `-2.997`},
		{"ε not a number", "offer", private, `2.997`, `NaN`},
		{"ε as a text", "offer", private, `2.997`, `"2.997"`},
		{"blob with the codec of a notice", "offer", offer, blob("expert").String(), ref("expert").String()},
		{"CIDv0", "offer", offer, blob("expert").String(), cid.NewCidV0(blob("expert").Hash()).String()},
		{"CID in another base", "offer", offer, blob("expert").String(), "f01701220" + strings.Repeat("ab", 32)},
		{"CID in upper case", "offer", offer, blob("expert").String(), longCID},
		{"CID with another hash", "offer", offer, blob("expert").String(), otherHash(t).String()},
		{"CID as a link", "offer", offer, `"` + blob("expert").String() + `"`, `{"/":"` + blob("expert").String() + `"}`},
		{"empty CID", "offer", offer, blob("expert").String(), ``},
		{"key in another base", "offer", offer, header(1).Key.String(), "f" + "ed01" + strings.Repeat("ab", 32)},
		{"key of another kind", "offer", offer, header(1).Key.String(), "zQ3shokFTS3brHcDQrn82RUDfCZESWL1ZdCEJwekUDPQiYBme"},
		{"lease that has ended when it begins", "lease", lease, `2026-03-02T12:00:00Z`, `2026-03-01T12:00:00Z`},
		{"offers unsorted", "lease", lease, `"` + sorted(ref("a"), ref("b"))[0].String() + `",`, `"` + ref("zz").String() + `","` + ref("yy").String() + `","` + ref("xx").String() + `",`},
		{"offer twice", "lease", lease, `"offers":[`, `"offers":["` + sorted(ref("a"), ref("b"))[0].String() + `",`},
		{"head of its own feed", "lease", lease, PublicKeyOf(key(9)).String(), PublicKeyOf(key(1)).String()},
		{"head at seq 0", "lease", lease, `"seq":3`, `"seq":0`},
		{"revocation of nothing", "revocation", revocation, `"offer":"` + ref("a").String() + `",`, ``},
		{"revocation of one and all", "revocation", revocation, `"reason"`, `"all":true,"reason"`},
		{"all set to false", "revocation", revocation, `"reason"`, `"all":false,"reason"`},
		{"leak report with the codec of a blob", "offer", offer, `"expert_bits_per_byte":0.875}`, `"expert_bits_per_byte":0.875},"leak_report":"` + blob("report").String() + `"`},
		{"leak report that is empty", "offer", offer, `"expert_bits_per_byte":0.875}`, `"expert_bits_per_byte":0.875},"leak_report":""`},
		{"limits of nothing", "charter", charter, `"max_blob_bytes":4294967296`, `"max_blob_bytes":4294967296,"leak":{"extraction":{"warn":0,"block":0},"membership":{"warn":0,"block":0},"epsilon":{"warn":0,"block":0},"personal":{"warn":0,"block":0}}`},
		{"a limit that blocks before it warns", "charter", charter, `"max_blob_bytes":4294967296`, `"max_blob_bytes":4294967296,"leak":{"extraction":{"warn":0.5,"block":0.25},"membership":{"warn":0,"block":0},"epsilon":{"warn":0,"block":0},"personal":{"warn":0,"block":0}}`},
		{"a negative limit", "charter", charter, `"max_blob_bytes":4294967296`, `"max_blob_bytes":4294967296,"leak":{"extraction":{"warn":-1,"block":0.25},"membership":{"warn":0,"block":0},"epsilon":{"warn":0,"block":0},"personal":{"warn":0,"block":0}}`},
		{"charter version 0", "charter", charter, `"version":1`, `"version":0`},
		{"charter version 2 without prev", "charter", charter, `"version":1`, `"version":2`},
		{"charter version 1 with prev", "charter", charter, `"version":1`, `"version":1,"prev":"` + ref("x").String() + `"`},
		{"charter version out of range", "charter", charter, `"version":1`, `"version":18446744073709551615,"prev":"` + ref("x").String() + `"`},
		{"member name in upper case", "charter", charter, `"name":"alpha"`, `"name":"Alpha"`},
		{"member name ending in a line feed", "charter", charter, `"name":"alpha"`, `"name":"alpha\n"`},
		{"members unsorted", "charter", charter, `"name":"gamma"`, `"name":"aaa"`},
		{"member twice", "charter", charter, `"name":"gamma"`, `"name":"beta"`},
		{"key twice", "charter", charter, PublicKeyOf(key(13)).String(), PublicKeyOf(key(12)).String()},
		{"node key that publishes", "charter", charter, PublicKeyOf(key(13)).String(), PublicKeyOf(key(1)).String()},
		{"steward who is no member", "charter", charter, `["alpha","beta"]`, `["alpha","delta"]`},
		{"steward twice", "charter", charter, `["alpha","beta"]`, `["alpha","alpha"]`},
		{"no stewards", "charter", charter, `["alpha","beta"]`, `[]`},
		{"quorum 0", "charter", charter, `"quorum":2`, `"quorum":0`},
		{"quorum beyond the stewards", "charter", charter, `"quorum":2`, `"quorum":3`},
		{"lease above its ceiling", "charter", charter, `"lease_seconds":86400`, `"lease_seconds":604801`},
		{"ceiling above 366 days", "charter", charter, `604800`, `31622401`},
		{"no ceiling", "charter", charter, `604800`, `0`},
		{"no offers per day", "charter", charter, `"offers_per_day":20`, `"offers_per_day":0`},
		{"offers per day without end", "charter", charter, `"offers_per_day":20`, `"offers_per_day":10001`},
		{"offers per day missing", "charter", charter, `"offers_per_day":20`, `"x":20`},
		{"recovery key that is empty", "charter", charter, `"recovery":"` + text(21) + `"`, `"recovery":""`},
		{"recovery key null", "charter", charter, `"recovery":"` + text(21) + `"`, `"recovery":null`},
		{"recovery key that publishes", "charter", charter, `"recovery":"` + text(21) + `"`, `"recovery":"` + text(1) + `"`},
		{"revoker that is a node", "charter", charter, text(42), text(13)},
		{"revokers null", "charter", charter, `"revokers":[]`, `"revokers":null`},
		{"revokers missing", "charter", charter, `,"revokers":[]`, ``},
		{"revokers unsorted", "charter", charter, revokers[0].String() + `","` + revokers[1].String(), revokers[1].String() + `","` + revokers[0].String()},
		{"drawn that is empty", "charter", charter, `"offers_per_day":20`, `"offers_per_day":20,"drawn":""`},
		{"drawn at the zero time", "charter", charter, `"offers_per_day":20`, `"offers_per_day":20,"drawn":"0001-01-01T00:00:00Z"`},
		{"detached offer", "offer", offer, `"seq":1`, `"seq":0`},
		{"detached delegation", "delegation", payloadOf(t, &Delegation{Header: header(1), Delegate: aDelegation().Delegate, Renew: true, NotAfter: day.Add(1e9)}), `"seq":1`, `"seq":0`},
		{"detached with a prev", "revocation", detached, `"seq":0`, `"seq":0,"prev":"` + ref("prev").String() + `"`},
		{"detached revocation of all", "revocation", detached, `"revoked_key":"` + text(12) + `"`, `"all":true`},
		{"detached vote", "revocation", detached, `"revoked_key"`, `"member":"beta","revoked_key"`},
		{"revocation of a key and an offer", "revocation", detached, `"revoked_key"`, `"offer":"` + ref("a").String() + `","revoked_key"`},
		{"revoked key that is empty", "revocation", detached, text(12), ``},
		{"vote against nobody", "revocation", vote, `"beta"`, `""`},
		{"vote against no name", "revocation", vote, `"beta"`, `"Beta"`},
		{"through without all", "revocation", vote, `"all":true`, `"offer":"` + ref("a").String() + `"`},
		{"through of its own feed", "revocation", vote, text(2), text(1)},
		{"through of nobody", "revocation", vote, `"key":"` + text(2) + `"`, `"key":""`},
		{"through seq 0", "revocation", vote, `"seq":7`, `"seq":0`},
		{"through out of range", "revocation", vote, `"seq":7`, `"seq":9007199254740992`},
		{"through null", "revocation", vote, vote[strings.Index(vote, `"through":`):strings.Index(vote, `,"reason"`)], `"through":null`},
		{"delegation to itself", "delegation", delegation, text(9), text(1)},
		{"delegation to nobody", "delegation", delegation, text(9), ``},
		{"delegation of nothing", "delegation", delegation, `"revoke":true,"renew":true`, `"revoke":false,"renew":false`},
		{"delegation without offers", "delegation", delegation, `"offers":[`, `"offers":null,"x":[`},
		{"delegation that has ended when it begins", "delegation", delegation, `2026-03-02T12:00:00Z`, `2026-03-01T12:00:00Z`},
		{"delegated offer twice", "delegation", delegation, `"offers":[`, `"offers":["` + sorted(ref("a"), ref("b"))[0].String() + `",`},
		{"rotation of another role", "rotation", rotation, `"publishing"`, `"recovery"`},
		{"rotation of a node key under a proof for a publishing key", "rotation", rotation, `"publishing"`, `"node"`},
		{"rotation of another key than the proof's", "rotation", rotation, text(31), text(33)},
		{"rotation to another key than the proof's", "rotation", rotation, text(32), text(33)},
		{"rotation to the key itself", "rotation", rotation, text(32), text(1)},
		{"rotation that changes nothing", "rotation", rotation, text(32), text(31)},
		{"rotation under another charter than the proof's", "rotation", rotation, ref("charter").String(), ref("other").String()},
		{"rotation without proof", "rotation", rotation, `"proof":"`, `"proof":"","x":"`},
		{"statement that says nothing", "statement", statement, statement[strings.Index(statement, `"dropped":`):], `"dropped":[]}`},
		{"drop twice", "statement", payloadOf(t, &Statement{Header: header(1), Dropped: aStatement().Dropped[:1]}), `"dropped":[`, `"dropped":[` + dropped(t, 0) + `,`},
		{"drops unsorted", "statement", statement, dropped(t, 0) + `,` + dropped(t, 1), dropped(t, 1) + `,` + dropped(t, 0)},
		{"drop after the statement", "statement", statement, `"time":"2026-03-01T12:00:00Z"}]`, `"time":"2026-03-01T12:00:01Z"}]`},
		{"dropped missing", "statement", exported, `"dropped":[],`, ``},
		{"dropped null", "statement", exported, `"dropped":[]`, `"dropped":null`},
		{"exported that is empty", "statement", statement, `Z"}]}`, `Z"}],"exported":[]}`},
		{"exported null", "statement", statement, `Z"}]}`, `Z"}],"exported":null}`},
		{"statement of empty lists", "statement", exported, exported[strings.Index(exported, `"exported":`):], `"exported":[]}`},
		{"export twice", "statement", exported, `"exported":[`, `"exported":[` + export(t, 0) + `,`},
		{"exports unsorted", "statement", exported, export(t, 0) + `,` + export(t, 1), export(t, 1) + `,` + export(t, 0)},
		{"export of nothing", "statement", exported, `"offer":"` + ref("a").String() + `",`, ``},
		{"export of a blob", "statement", exported, ref("a").String(), blob("a").String()},
		{"export after the statement", "statement", exported, `"offer":"` + ref("a").String() + `","time":"2026-03-01T12:00:00Z"`, `"offer":"` + ref("a").String() + `","time":"2026-03-01T12:00:01Z"`},
		{"export without a time", "statement", exported, `"offer":"` + ref("a").String() + `","time":"2026-03-01T12:00:00Z"`, `"offer":"` + ref("a").String() + `"`},
		{"export with another field", "statement", exported, `"offer":"` + ref("a").String() + `"`, `"offer":"` + ref("a").String() + `","folder":"x"`},
		{"drop without a time", "statement", statement, `,"time":"2026-03-01T12:00:00Z"}]`, `}]`},
		{"payload of another kind", "lease", offer, ``, ``},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if !strings.Contains(tt.payload, tt.old) {
				t.Fatalf("%s is not in %s", tt.old, tt.payload)
			}
			payload := strings.Replace(tt.payload, tt.old, tt.new, 1)
			envelope := wrap(t, Kind(tt.kind).payloadType(), payload, key(1))
			if n, err := Parse(envelope); !errors.Is(err, ErrMalformed) {
				t.Errorf("Parse = %v, %v, want ErrMalformed", n, err)
			}
		})
	}
}

func payloadOf(t testing.TB, b Body) string {
	t.Helper()
	p, err := encode(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// dropped returns how the statement spells its drop number i.
func dropped(t testing.TB, i int) string {
	t.Helper()
	b, err := encode(aStatement().Dropped[i])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// export returns how the statement of exports spells its export number i.
func export(t testing.TB, i int) string {
	t.Helper()
	b, err := encode(anExportStatement().Exported[i])
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func otherHash(t testing.TB) cid.Cid {
	t.Helper()
	h, err := multihash.Sum([]byte("x"), multihash.SHA2_512, -1)
	if err != nil {
		t.Fatal(err)
	}
	return cid.NewCidV1(cid.DagProtobuf, h)
}

func TestParseRefusesEnvelopes(t *testing.T) {
	good := string(mustSign(t, anOffer(), key(1)).Envelope)
	charter := string(mustSign(t, aCharter(), key(1)).Envelope)
	payload := payloadOf(t, anOffer())
	offer := KindOffer.payloadType()
	b64 := base64.StdEncoding.EncodeToString([]byte(payload))
	sig := base64.StdEncoding.EncodeToString(ed25519.Sign(key(1), []byte(payload)))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	id := PublicKeyOf(key(1)).String()
	tests := []struct {
		name, envelope string
		want           error
	}{
		{"empty", "", ErrMalformed},
		{"null", "null", ErrMalformed},
		{"a list", "[]", ErrMalformed},
		{"too large", good + strings.Repeat(" ", MaxSize), ErrTooLarge},
		{"a charter that is too large", charter + strings.Repeat(" ", MaxCharterSize), ErrTooLarge},
		{"a charter that is as large as may be", charter + strings.Repeat(" ", MaxCharterSize-len(charter)), ErrMalformed},
		{"an offer that is as large as a charter may be", good + strings.Repeat(" ", MaxCharterSize-len(good)), ErrTooLarge},
		{"trailing line feed", good + "\n", ErrMalformed},
		{"white space", replace(`,"payload"`, `, "payload"`), ErrMalformed},
		{"byte order mark", "\ufeff" + good, ErrMalformed},
		{"unknown field", replace(`"signatures"`, `"x":1,"signatures"`), ErrMalformed},
		{"unknown field in a signature", replace(`"keyid"`, `"cert":"","keyid"`), ErrMalformed},
		{"duplicate field", replace(`"payload":`, `"payload":"","payload":`), ErrMalformed},
		{"field in other case", replace(`"payload":`, `"Payload":`), ErrMalformed},
		{"no signatures", replace(good[strings.Index(good, `"signatures"`):], `"signatures":[]}`), ErrSignature},
		{"no keyid", replace(id, ""), ErrMalformed},
		{"keyid with a space", replace(id, id+" "), ErrMalformed},
		{"keyid of somebody else", replace(id, PublicKeyOf(key(2)).String()), ErrSignature},
		{"signature over the payload alone", replace(good[strings.Index(good, `"sig":`):], `"sig":"`+sig+`"}]}`), ErrSignature},
		{"short signature", replace(good[strings.Index(good, `"sig":`):], `"sig":"AAAA"}]}`), ErrSignature},
		{"base64 with a line feed", replace(b64, b64[:4]+`\n`+b64[4:]), ErrMalformed},
		{"base64 without padding", replace(`=="}]}`, `"}]}`), ErrMalformed},
		{"base64 with spare bits set", spareBit(good), ErrMalformed},
		{"base64 for URLs", replace(b64, strings.NewReplacer("+", "-", "/", "_").Replace(b64[:4])+"-___"), ErrMalformed},
		{"unknown payload type", string(wrap(t, "application/vnd.chorus.offer.v2+json", payload, key(1))), ErrMalformed},
		{"payload type of another project", string(wrap(t, "application/vnd.in-toto+json", payload, key(1))), ErrMalformed},
		{"payload type in other case", string(wrap(t, "application/vnd.chorus.Offer.v1+json", payload, key(1))), ErrMalformed},
		{"signed by another key than the header's", string(wrap(t, offer, payload, key(2))), ErrSignature},
		{"signed twice by one key", string(wrap(t, offer, payload, key(1), key(1))), ErrMalformed},
		{"signed by somebody else first", string(wrap(t, offer, payload, byKeyID(1, 2)...)), ErrSignature},
		{"signed by somebody else last", string(wrap(t, offer, payload, byKeyID(1, 3)...)), ErrSignature},
		{"charter signed in no order", string(wrap(t, KindCharter.payloadType(), payloadOf(t, aCharter()), byKeyID(2, 1)[1], byKeyID(2, 1)[0])), ErrMalformed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.envelope == good {
				t.Fatal("the envelope is the good one")
			}
			if n, err := Parse([]byte(tt.envelope)); !errors.Is(err, tt.want) {
				t.Errorf("Parse = %v, %v, want %v", n, err, tt.want)
			}
		})
	}
}

// byKeyID returns keys sorted by their text form.
func byKeyID(seeds ...byte) []ed25519.PrivateKey {
	keys := make([]ed25519.PrivateKey, len(seeds))
	for i, s := range seeds {
		keys[i] = key(s)
	}
	slices.SortFunc(keys, func(a, b ed25519.PrivateKey) int {
		return strings.Compare(PublicKeyOf(a).String(), PublicKeyOf(b).String())
	})
	return keys
}

// spareBit sets one of the four bits of a 64-byte signature's last base64
// character that decode to nothing.
func spareBit(envelope string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	i := strings.LastIndex(envelope, "==") - 1
	last := strings.IndexByte(alphabet, envelope[i])
	return envelope[:i] + alphabet[last|1:last|1+1] + envelope[i+1:]
}

func TestParseRefusesAnEnvelopeWithAnyByteChanged(t *testing.T) {
	for _, g := range golden {
		good := mustSign(t, g.body, g.keys...).Envelope
		for i := range good {
			for _, x := range []byte{0x01, 0x20, 0x80} {
				bad := bytes.Clone(good)
				bad[i] ^= x
				if n, err := Parse(bad); err == nil {
					t.Fatalf("%s: byte %d changed from %q to %q, and Parse returned %s", g.file, i, good[i], bad[i], n.CID)
				}
			}
		}
	}
}

func TestSignRefusesWhatParseWould(t *testing.T) {
	bad := func(change func(*Offer)) *Offer {
		o := anOffer()
		change(o)
		return o
	}
	tests := []struct {
		name string
		body Body
		keys []ed25519.PrivateKey
		want error
	}{
		{"no key", anOffer(), nil, ErrSignature},
		{"another key", anOffer(), []ed25519.PrivateKey{key(2)}, ErrSignature},
		{"a key too many", anOffer(), []ed25519.PrivateKey{key(1), key(2)}, ErrSignature},
		{"half a key", anOffer(), []ed25519.PrivateKey{key(1)[:32]}, ErrSignature},
		{"one key twice", aCharter(), []ed25519.PrivateKey{key(1), key(1)}, ErrMalformed},
		{"an empty offer", new(Offer), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"an empty lease", new(Lease), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"an empty revocation", new(Revocation), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"an empty delegation", new(Delegation), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"an empty rotation", new(Rotation), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"an empty statement", new(Statement), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"an empty charter", new(Charter), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"NaN", bad(func(o *Offer) { o.Metrics.ExpertBitsPerByte = math.NaN() }), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"infinity", bad(func(o *Offer) { o.Metrics.ExpertBitsPerByte = math.Inf(1) }), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"invalid UTF-8", bad(func(o *Offer) { o.Domain = "a\xff" }), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"the year 10000", bad(func(o *Offer) { o.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) }), []ed25519.PrivateKey{key(1)}, ErrMalformed},
		{"too many offers", manyOffers(), []ed25519.PrivateKey{key(1)}, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := Sign(tt.body, tt.keys...); !errors.Is(err, tt.want) {
				t.Errorf("Sign = %v, %v, want %v", n, err, tt.want)
			}
		})
	}
}

func manyOffers() *Lease {
	l := aLease()
	for i := range 1000 {
		l.Offers = append(l.Offers, ref(strings.Repeat("x", i)))
	}
	slices.SortFunc(l.Offers, CompareCID)
	return l
}

func TestSignCutsTimesToWholeSecondsInUTC(t *testing.T) {
	l := aLease()
	l.Time = day.Add(900 * time.Millisecond).In(time.FixedZone("", 3600))
	l.NotAfter = day.Add(time.Hour + 800*time.Millisecond)
	got := mustSign(t, l, key(1)).Body.(*Lease)
	if !got.Time.Equal(day) || !got.NotAfter.Equal(day.Add(time.Hour)) || got.Time.Location() != time.UTC {
		t.Errorf("time %v, not after %v", got.Time, got.NotAfter)
	}
}

func TestSignAndParseKeepNothingOfTheCaller(t *testing.T) {
	l := aLease()
	n := mustSign(t, l, key(1))
	l.Offers[0] = ref("other")
	if n.Body.(*Lease).Offers[0].Equals(ref("other")) {
		t.Error("the notice changed with the body that was signed")
	}
	b := bytes.Clone(n.Envelope)
	n, err := Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b)
	if _, err := Parse(n.Envelope); err != nil {
		t.Errorf("the notice changed with the bytes that were parsed: %v", err)
	}
}

func TestPublicKeyHasOneSpelling(t *testing.T) {
	k := PublicKeyOf(key(1))
	if got, err := ParsePublicKey(k.String()); err != nil || got != k {
		t.Errorf("ParsePublicKey = %v, %v", got, err)
	}
	// did:key method specification, Ed25519 test vector.
	const vector = "z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"
	if got, err := ParsePublicKey(vector); err != nil || got.String() != vector {
		t.Errorf("ParsePublicKey = %v, %v", got, err)
	}
	for _, s := range []string{"", "z", "z6Mk", k.String() + "1", k.String()[:47], " " + k.String(), "z1" + k.String()[1:], "Z" + k.String()[1:], strings.Repeat("z", 1000)} {
		if got, err := ParsePublicKey(s); !errors.Is(err, ErrMalformed) {
			t.Errorf("ParsePublicKey(%q) = %v, %v, want ErrMalformed", s, got, err)
		}
	}
	if got := k.LogValue().String(); !strings.HasPrefix(got, "z6Mk…") || !strings.HasSuffix(k.String(), strings.TrimPrefix(got, "z6Mk…")) {
		t.Errorf("log form is %q", got)
	}
}

func TestWithHeaderCopies(t *testing.T) {
	for _, b := range []Body{anOffer(), aLease(), aRevocation(), aDelegation(), aRotation(), aStatement()} {
		got, err := WithHeader(b, header(7))
		if err != nil {
			t.Fatal(err)
		}
		if got.header().Seq != 7 || b.header().Seq == 7 || got.Kind() != b.Kind() {
			t.Errorf("%s: seq %d, and %d in the original", b.Kind(), got.header().Seq, b.header().Seq)
		}
	}
	if _, err := WithHeader(aCharter(), header(7)); !errors.Is(err, ErrMalformed) {
		t.Errorf("charter: %v, want ErrMalformed", err)
	}
}
