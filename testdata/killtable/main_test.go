package main

import (
	"io"
	"strings"
	"testing"
)

func TestTable(t *testing.T) {
	const in = `not json
{"Action":"attr","Package":"p","Test":"A/1","Key":"case","Value":"K01 plain"}
{"Action":"attr","Package":"p","Test":"A/1","Key":"mode","Value":"root"}
{"Action":"pass","Package":"p","Test":"A/1","Elapsed":0.5}
{"Action":"attr","Package":"p","Test":"A/2","Key":"case","Value":"K01 plain"}
{"Action":"attr","Package":"p","Test":"A/2","Key":"mode","Value":"root"}
{"Action":"output","Package":"p","Test":"A/2","Output":"    x.go:3: LIE: it lives\n"}
{"Action":"fail","Package":"p","Test":"A/2","Elapsed":1}
{"Action":"attr","Package":"p","Test":"A/3","Key":"case","Value":"K27 sudo"}
{"Action":"output","Package":"p","Test":"A/3","Output":"    x.go:3: no sudo here\n"}
{"Action":"output","Package":"p","Test":"A/3","Output":"    --- SKIP: A/3\n"}
{"Action":"skip","Package":"p","Test":"A/3","Elapsed":1}
{"Action":"attr","Package":"p","Test":"A/4","Key":"case","Value":"K25"}
{"Action":"attr","Package":"p","Test":"A/4","Key":"honest","Value":"frozen"}
{"Action":"pass","Package":"p","Test":"A/4","Elapsed":1}
{"Action":"attr","Package":"p","Test":"A/5","Key":"case","Value":"K99"}
`
	rows, bad, err := read(strings.NewReader(in), io.Discard)
	if err != nil || bad != 2 {
		t.Fatalf("%d bad, %v", bad, err)
	}
	var out strings.Builder
	table(&out, rows)
	for _, want := range []string{"K01 plain  root  LIE", "K25        ", "honest          1.00  frozen", "skipped         1.00  no sudo here", "K99 ", "4 lines: LIE 1, FALSE ALARM 0, FAIL 1, honest 1, pass 0, skipped 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}
