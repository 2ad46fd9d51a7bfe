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

		"SSN: 219 09 9999, Social Security no. 219099998":   {{"social security number", "219099998"}, {"social security number", "219099999"}},
		"219 09 9999 and 219099999":                         nil,
		"SSN 000 09 9999":                                   nil,
		"NHS 943 476 5919 or 943-476-5919":                  {{"NHS number", "9434765919"}, {"phone number", "9434765919"}},
		"his NHS number: 9434765919":                        {{"NHS number", "9434765919"}},
		"NHS number 9434765918 and 9434765919 without it":   nil,
		"1943 476 5919 and 943 476 5919 22":                 nil,
		"Passport No. X1234567, PASSPORT 512345678":         {{"passport number", "512345678"}, {"passport number", "x1234567"}},
		"X1234567 on a passport, or passport 2024":          nil,
		"mrn: 00123456; MRN#A-778899":                       {{"medical record number", "00123456"}, {"medical record number", "a778899"}},
		"Medical Record Number 445566, patient id=12345":    {{"medical record number", "12345"}, {"medical record number", "445566"}},
		"patient 12345 had 445566 cells, MRN unknown":       nil,
		"MRN 12345678901":                                   nil,
		"from 2001:0DB8::00ff, fe80::1:":                    {{"IP address", "2001:db8::ff"}, {"IP address", "fe80::1"}},
		"2001:db8:0:0:0:0:0:ff.":                            {{"IP address", "2001:db8::ff"}},
		"at 12:30:45, std::dead::beef, 00:1a:2b:3c:4d:5e":   nil,
		"dead::beef, 2024:10:05 12:30, 1:2::3, abcd:1234":   nil,
		"call 555 123 4567":                                 {{"phone number", "5551234567"}},
		"sums of 155 123 4567, 555 1234 567, 555 123 456":   nil,
		"de 06 12 34 56 78 ou 01.23.45.67.89":               {{"phone number", "0123456789"}, {"phone number", "0612345678"}},
		"06 12 34 56 78 90 and 06 12 34 56, 16 12 34 56 78": nil,
		"MRN\n12345678, a line\n555 123\n4567":              nil,
		"0000 0000 0000 0000":                               nil,
	} {
		if got := Find(text); !slices.Equal(got, want) {
			t.Errorf("in %q: %v, want %v", text, got, want)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("a@b.de +49 30 901820 DE89 3704 0044 0532 0130 00 4111 1111 1111 1111 219-09-9999 221b Baker Street")
	f.Add("passport K1234567 MRN 00123456 SSN 219 09 9999 NHS 943 476 5919 2001:db8::1 06 12 34 56 78")
	f.Add("pa\u017f\u017fport AB123456 \u212aA12 ssn\u212a 219099999 dead:::::")
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
