package kernels
import ("testing";"fmt";"time";"runtime")
func TestTmpGemv(t *testing.T){
 r:=source()
 for _, th := range []int{1,2} {
 runtime.GOMAXPROCS(th)
 for _,s:=range [][3]int{{1,512,512},{1,2048,5632},{1,2064,5632},{1,2080,5632},{1,4096,8192},{1,4112,8192},{4,2048,5632},{4,2064,5632},{16,2048,5632},{16,2064,5632}} {
  rows,in,out:=s[0],s[1],s[2]
  x:=normals(r,rows*in); w:=make([]float32,out*in); for i:=range w {w[i]=float32(i%17)}
  y:=make([]float32,rows*out); m:=NewMatrix(out,in,w)
  for _,tr:=range tiers(){ active=tr
  best:=time.Hour
  for i:=0;i<40;i++{ t0:=time.Now(); Linear(y,x,m,rows); best=min(best,time.Since(t0)) }
  fmt.Printf("th %d %v %s: %v %.1f GB/s %.1f GFLOP/s\n",th,s,tr.name,best, float64(in*out*4)/float64(best), 2*float64(in*out*rows)/float64(best)) }
 }}
}
