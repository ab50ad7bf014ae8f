package sparc.streaming;

import org.apache.flink.table.annotation.ArgumentHint;
import org.apache.flink.table.annotation.ArgumentTrait;
import org.apache.flink.table.annotation.DataTypeHint;
import org.apache.flink.table.annotation.FunctionHint;
import org.apache.flink.table.annotation.StateHint;
import org.apache.flink.table.api.dataview.MapView;
import org.apache.flink.table.data.RowData;

/**
 * The same, but a user is forgotten after `table.exec.state.ttl` without a click.
 *
 * <p>A class of its own, because Flink 2.2 reads a time to live of 0 in that setting as one without
 * end, which is looked after at every access: an eighth of the job's work.
 */
@FunctionHint(
        output = @DataTypeHint(value = UserSequences.OUTPUT, bridgedTo = RowData.class))
public final class ExpiringUserSequences extends UserSequences {
    @Override
    public void eval(
            Context context,
            @StateHint History history,
            @StateHint(ttl = "0") MapView<Long, Waiting> waiting,
            @ArgumentHint(
                            value = {ArgumentTrait.SET_SEMANTIC_TABLE},
                            type = @DataTypeHint(value = CLICK, bridgedTo = RowData.class))
                    RowData click,
            Integer remembered)
            throws Exception {
        super.eval(context, history, waiting, click, remembered);
    }
}
