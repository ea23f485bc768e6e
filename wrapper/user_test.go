package wrapper

import (
	"slices"
	"testing"
)

const passwdText = "root:x:0:0:root:/root:/bin/bash\n#x:x:9:9::/:\n7:x:1001:100:number as name:/home/7:/bin/sh\n" +
	"short:x:1\nmara:x:1000:100::/home/mara:/bin/zsh\nnohome:x:1002:7:::\nbad:x:-1:0::/:/bin/sh\nseven:x:7:7::/s:/bin/ksh\r\n"

func TestFindPasswd(t *testing.T) {
	for name, want := range map[string]account{
		"mara":   {name: "mara", uid: 1000, gid: 100, home: "/home/mara", shell: "/bin/zsh"},
		"nohome": {name: "nohome", uid: 1002, gid: 7, home: "/", shell: "/bin/sh"},
		"7":      {name: "7", uid: 1001, gid: 100, home: "/home/7", shell: "/bin/sh"}, // a name comes before a number
		"1000":   {name: "mara", uid: 1000, gid: 100, home: "/home/mara", shell: "/bin/zsh"},
		"seven":  {name: "seven", uid: 7, gid: 7, home: "/s", shell: "/bin/ksh"},
	} {
		a, ok := findPasswd([]byte(passwdText), name)
		if !ok || a.name != want.name || a.uid != want.uid || a.gid != want.gid || a.home != want.home || a.shell != want.shell {
			t.Errorf("%s: %+v, %v", name, a, ok)
		}
	}
	for _, name := range []string{"", "x", "#x", "short", "bad", "mar", "9999"} {
		if a, ok := findPasswd([]byte(passwdText), name); ok {
			t.Errorf("%q is found: %+v", name, a)
		}
	}
}

func TestGroupsOf(t *testing.T) {
	const text = "root:x:0:\nusers:x:100:\ndisk:x:6:mara,root\nadm:x:4:maramara\nwheel:x:10:root,mara\nsame:x:100:mara\nbad:x:q:mara\nshort:x\n"
	got := groupsOf([]byte(text), &account{name: "mara", gid: 100})
	if !slices.Equal(got, []uint32{100, 6, 10}) {
		t.Errorf("groups are %v", got)
	}
}

func FuzzFindPasswd(f *testing.F) {
	f.Add(passwdText, "mara")
	f.Add("a:b:c:d:e:f:g", "a")
	f.Fuzz(func(t *testing.T, text, name string) {
		a, ok := findPasswd([]byte(text), name)
		if ok && (a == nil || a.home == "" || a.shell == "") {
			t.Errorf("found %+v", a)
		}
		groupsOf([]byte(text), &account{name: name})
	})
}
