package p2p

import (
	"testing"
	"time"
)

func TestAMemberThatHangsUpIsDialledEverMoreRarely(t *testing.T) {
	p, at := pace{backoff: minBackoff}, time.Unix(1e9, 0)
	dials := 0
	for end := at.Add(time.Hour); at.Before(end); at = at.Add(time.Millisecond) {
		if at.Before(p.until) {
			continue
		}
		p.dialled = at
		p.lost(at.Add(time.Millisecond)) // the other side closes after the handshake
		dials++
	}
	if dials < 60 || dials > 70 { // one a minute, and the first few faster
		t.Errorf("%d dials in an hour", dials)
	}

	p.dialled = at
	at = at.Add(settled)
	p.lost(at)
	if at.Before(p.until) {
		t.Errorf("a connection that lasted is not dialled again until %v", p.until.Sub(at))
	}
	p.dialled = at
	if p.lost(at); p.until.Sub(at) != minBackoff {
		t.Errorf("after one that lasted, the wait is %v, want %v", p.until.Sub(at), minBackoff)
	}
}
