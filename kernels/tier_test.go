package kernels

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

func TestTheEnvironmentChoosesATierOrSaysWhyNot(t *testing.T) {
	available := []tier{{name: "avx2"}, {name: "portable"}}
	for _, c := range []struct{ asked, got string }{{"", "avx2"}, {"avx2", "avx2"}, {"portable", "portable"}} {
		if tier, err := choose(c.asked, available); err != nil || tier.name != c.got {
			t.Errorf("%q gives %s, %v; want %s", c.asked, tier.name, err, c.got)
		}
	}
	tier, err := choose("avx512", available)
	if tier.name != "avx2" || err == nil || !strings.Contains(err.Error(), `"avx512" is not one of avx2, portable`) {
		t.Errorf("a tier that the processor lacks gives %s, %v", tier.name, err)
	}
}

// With CHORUS_KERNELS set, the other tests of this run are about that tier or they are about nothing.
func TestTheTierAskedForIsInUse(t *testing.T) {
	asked := os.Getenv("CHORUS_KERNELS")
	got, err := Tier()
	if err != nil {
		t.Fatal(err)
	}
	if asked != "" && got != asked {
		t.Errorf("the tier in use is %s, asked for was %s", got, asked)
	}
}

// A processor without AVX-512 has neither its registers nor its instructions, and no test on a
// processor with them would notice their use.
func TestAVX2FunctionsUseOnlyAVX2Registers(t *testing.T) {
	source, err := os.ReadFile("asm_amd64.s")
	if err != nil {
		t.Fatal(err)
	}
	beyond := regexp.MustCompile(`\b(Z[0-9]+|[XY](1[6-9]|[23][0-9])|K[0-7])\b|\.BCST|VPXOR[DQ]`)
	functions := 0
	for _, f := range strings.Split(string(source), "TEXT ·")[1:] {
		name, _, _ := strings.Cut(f, "(")
		if strings.HasSuffix(name, "x32") || strings.HasSuffix(name, "wide") {
			continue
		}
		functions++
		if m := beyond.FindString(f); m != "" {
			t.Errorf("%s uses %s", name, m)
		}
	}
	if functions < 20 {
		t.Errorf("found %d functions", functions)
	}
}
