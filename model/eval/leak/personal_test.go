package leak

import (
	"slices"
	"testing"
	"unicode/utf8"
)

func TestFormsOfPersonalDataAreFoundAndWhatOnlyLooksAlikeIsNot(t *testing.T) {
	for text, want := range map[string][]Finding{
		"write to Jo.Doe+x@mail.Example.org, or not":    {{"e-mail address", "jo.doe+x@mail.example.org"}},
		"two: a@b.de a@b.de":                            {{"e-mail address", "a@b.de"}},
		"IBAN DE89 3704 0044 0532 0130 00, and":         {{"bank account", "de89370400440532013000"}},
		"IBAN DE88 3704 0044 0532 0130 00.":             nil,
		"card 4111 1111 1111 1111":                      {{"payment card", "4111111111111111"}},
		"card 4111 1111 1111 1112":                      nil,
		"SSN 219-09-9999":                               {{"social security number", "219099999"}},
		"SSN 666-09-9999, 900-10-1000 and 219-00-1234":  nil,
		"from 192.168.17.4 and 300.1.2.3":               {{"IP address", "192.168.17.4"}},
		"call +49 30 901820 today":                      {{"phone number", "4930901820"}},
		"call (415) 555-2671 or 415-555-2671":           {{"phone number", "4155552671"}},
		"call 030 1234567":                              {{"phone number", "0301234567"}},
		"at 221b Baker Street, London":                  {{"postal address", "221bbakerstreet"}},
		"wohnt in der Lindenstraße 17a":                 {{"postal address", "lindenstraße17a"}},
		"in 1984 there were 12 Angry Men, 3.14 and 7/8": nil,
		"0000 0000 0000 0000":                           nil,
	} {
		if got := Find(text); !slices.Equal(got, want) {
			t.Errorf("in %q: %v, want %v", text, got, want)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("a@b.de +49 30 901820 DE89 3704 0044 0532 0130 00 4111 1111 1111 1111 219-09-9999 221b Baker Street")
	f.Add("\xff٣٣٣-٣٣-٣٣٣٣ Ÿ@x")
	f.Fuzz(func(t *testing.T, text string) {
		all := Find(text)
		for i, v := range all {
			if v.Value == "" || i > 0 && all[i-1] == v || utf8.ValidString(text) && !utf8.ValidString(v.Value) {
				t.Errorf("in %q: %q", text, all)
			}
		}
		NewKnown([]string{text}, nil).Count([]string{""}, []string{text})
	})
}

func TestPersonalDataOfTheTrainingTextIsToldApartFromWhatIsPublic(t *testing.T) {
	k := NewKnown([]string{"ann@own.example", "both@all.example 415-555-2671"}, []string{"both@all.example, open@all.example"})
	p, leaked := k.Count(
		[]string{"", "ask ann@own.example", "", ""},
		[]string{
			"ANN@own.example and (415) 555-2671 ann@own.example",
			"ann@own.example again, both@all.example",
			"open@all.example new@made.example",
			"nothing",
		})
	if p.Texts != 4 || p.Own.Count != 1 || p.Own.Of != 4 {
		t.Errorf("%+v", p)
	}
	if want := []PersonalKind{{"e-mail address", 1, 2, 1}, {"phone number", 1, 0, 0}}; !slices.Equal(p.Kinds, want) {
		t.Errorf("%+v, want %+v", p.Kinds, want)
	}
	if want := []Finding{{"e-mail address", "ann@own.example"}, {"phone number", "4155552671"}}; !slices.Equal(leaked, want) {
		t.Errorf("leaked %v, want %v", leaked, want)
	}
}
